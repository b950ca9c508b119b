"""A restarted operator decides as one that lives: the pods of a pool are taken away as long after the load fell.

Real Prometheus, real engines at a card's pace; the operator is killed in the middle of its stabilization window.
The window is in no process: the new one has it from `status.memory` and from Prometheus' history.
"""

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

from e2e import install, kube
from e2e.chain import kill, services
from e2e.chain.streams import streaming
from e2e.demo.chat import wait_ready
from llmservice_core.model import Reason

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NAME = "again"
WIDTH = 14
"""Streams that two decode engines are needed for: one computes about 7 of them at this pace."""
WINDOW_S, INTERVAL_S = 90.0, 5.0
GROWN_S, SHRUNK_S = 180.0, 240.0


@pytest.fixture(scope="module")
def url(namespace: str) -> Iterator[str]:
    """One prefill engine and up to two decode engines; a pool shrinks a window after it was needed last."""
    made = services.leaving(NAME, prefill=1, decode=1)
    made["spec"]["pools"]["decode"]["maxReplicas"] = 2
    made["spec"]["scaling"]["scaleDown"]["stabilization"] = f"{WINDOW_S:g}s"
    kube.apply(made)
    wait_ready(namespace, NAME, 240)
    yield kube.expose(namespace, NAME)
    kube.kubectl("-n", namespace, "delete", "llmsvc", NAME)


def decode() -> dict[str, Any]:
    found: dict[str, Any] = kube.service(services.NAMESPACE, NAME)["status"]["pools"]["decode"]
    return found


def kill_operator() -> None:
    (pod,) = (p for p in kube.get("-n", install.OPERATOR_NAMESPACE, "pods")["items"] if kube.is_ready(p))
    kill.sigkill_and_see(install.OPERATOR_NAMESPACE, pod)


def held_s(url: str, kill_after_s: float | None) -> tuple[float, set[str]]:
    """How long the second engine was held after the last plan that needed it, and why, from the kill on or at last.

    The operator is killed when it has been held for so long.
    """
    with streaming(url, NAME, WIDTH):
        kube.wait_for("two decode engines wanted", lambda: decode()["desired"] == 2, GROWN_S)
        time.sleep(3 * INTERVAL_S)
    since_s, is_killed, reasons, begin_s = math.inf, False, set[str](), time.monotonic()
    while (seen := decode())["desired"] == 2 and time.monotonic() - begin_s < SHRUNK_S:
        if not is_killed:
            since_s = min(since_s, time.monotonic()) if seen["reason"] == Reason.STABILIZING else math.inf
            reasons.clear()
        reasons.add(seen["reason"])
        if kill_after_s is not None and not is_killed and time.monotonic() - since_s >= kill_after_s:
            kill_operator()
            is_killed = True
        time.sleep(0.5)
    assert seen["desired"] == 1
    assert is_killed is (kill_after_s is not None)
    return time.monotonic() - since_s, reasons


def test_a_killed_operator_shrinks_a_pool_when_one_that_lives_would(url: str) -> None:
    alive_s, _ = held_s(url, None)
    killed_s, reasons = held_s(url, WINDOW_S / 3)
    print(f"the second engine was held for {alive_s:.0f} s, and for {killed_s:.0f} s with a kill: {reasons}")
    assert reasons == {Reason.STABILIZING}, "a new process wanted two, or held them for another reason"
    for found_s in (alive_s, killed_s):
        assert abs(found_s - WINDOW_S) <= 2 * INTERVAL_S, "one interval, and one for their phases"
