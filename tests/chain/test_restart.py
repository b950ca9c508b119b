"""A restarted operator decides as one that lives: the pods of a pool are taken away as long after the load fell.

Real Prometheus, real engines at a card's pace; the operator is killed in the middle of its stabilization window.
The window is in no process: the new one has it from `status.memory` and from Prometheus' history.
"""

import json
import math
import time
from collections.abc import Iterator
from datetime import datetime
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
WINDOW_S, INTERVAL_S = 120.0, 5.0
GROWN_S, SHRUNK_S = 180.0, 300.0
TOLD_S = 1.0
"""A plan's time is told in whole seconds."""


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


def status() -> dict[str, Any]:
    found: dict[str, Any] = kube.service(services.NAMESPACE, NAME)["status"]
    return found


def desired() -> int:
    return int(status()["pools"]["decode"]["desired"])


def wants(seen: dict[str, Any]) -> list[tuple[float, int]]:
    """When how many replicas of the decode pool were wanted, by the memory that the operator keeps in the status."""
    return [(float(time_s), int(n)) for time_s, n in json.loads(seen["memory"])["wants"]["decode"]]


def needed_at_s(seen: dict[str, Any]) -> float:
    """When a plan wanted the second engine last."""
    return max((time_s for time_s, replicas in wants(seen) if replicas > 1), default=-math.inf)


def kill_operator() -> None:
    (pod,) = (p for p in kube.get("-n", install.OPERATOR_NAMESPACE, "pods")["items"] if kube.is_ready(p))
    kill.sigkill_and_see(install.OPERATOR_NAMESPACE, pod)


def held_s(url: str, is_to_be_killed: bool) -> tuple[float, float]:
    """How long the second engine was kept after the last plan that wanted it; for how long there was no new plan.

    The operator is killed when no request of the burst counts any more, so that nothing but what it remembers speaks
    for the engine.
    """
    with streaming(url, NAME, WIDTH):
        kube.wait_for("two decode engines wanted", lambda: desired() == 2, GROWN_S)
        time.sleep(3 * INTERVAL_S)
    begin_s, needed_s, is_killed, away_s = time.monotonic(), -math.inf, False, 0.0
    while (seen := status())["pools"]["decode"]["desired"] == 2 and time.monotonic() - begin_s < SHRUNK_S:
        needed_s = max(needed_s, needed_at_s(seen))
        is_kept = seen["pools"]["decode"]["reason"] == Reason.STABILIZING
        if is_to_be_killed and not is_killed and is_kept and wants(seen)[-1][1] == 0:
            kill_operator()
            is_killed, away_s = True, seconds_until_plan_after(seen["plan"]["time"])
            assert needed_at_s(status()) == needed_s, "the new process found another time when it was wanted"
        time.sleep(0.5)
    assert seen["pools"]["decode"]["desired"] == 1
    assert is_killed is is_to_be_killed
    return datetime.fromisoformat(seen["plan"]["time"]).timestamp() - needed_s, away_s


def seconds_until_plan_after(before: str) -> float:
    begin_s = time.monotonic()
    kube.wait_for("a plan of the new process", lambda: status()["plan"]["time"] > before, 120, every_s=0.5)
    return time.monotonic() - begin_s


def test_a_killed_operator_shrinks_a_pool_when_one_that_lives_would(url: str) -> None:
    alive_s, _ = held_s(url, is_to_be_killed=False)
    killed_s, away_s = held_s(url, is_to_be_killed=True)
    print(
        f"kept for {alive_s:.0f} s after it was wanted last; with a kill {killed_s:.0f} s, a plan {away_s:.0f} s later"
    )
    for found_s in (alive_s, killed_s):
        assert WINDOW_S - TOLD_S <= found_s <= WINDOW_S + 2 * INTERVAL_S, "one interval, and one for its phase"
