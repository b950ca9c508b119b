"""A restarted operator decides as one that lives: the pods of a pool are taken away as long after the load fell.

Real Prometheus, real engines at a card's pace; the operator is killed in the middle of its stabilization window.
The window is in no process: the new one has it from `status.memory` and from Prometheus' history.
"""

import time
from collections.abc import Iterator

import pytest

from e2e import install, kube
from e2e.chain import kill, services
from e2e.chain.streams import streaming
from e2e.demo.chat import wait_ready

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


def desired() -> int:
    return int(kube.service(services.NAMESPACE, NAME)["status"]["pools"]["decode"]["desired"])


def kill_operator() -> None:
    (pod,) = (p for p in kube.get("-n", install.OPERATOR_NAMESPACE, "pods")["items"] if kube.is_ready(p))
    kill.sigkill_and_see(install.OPERATOR_NAMESPACE, pod)


def planned_at() -> str:
    return str(kube.service(services.NAMESPACE, NAME)["status"]["plan"]["time"])


def seconds_until_small(url: str, *, is_killed: bool) -> tuple[float, float]:
    """From the end of the load to the decision for one engine, and to the first plan after the kill (0: none was)."""
    with streaming(url, NAME, WIDTH):
        kube.wait_for("two decode engines wanted", lambda: desired() == 2, GROWN_S)
        time.sleep(3 * INTERVAL_S)
    fell_s, back_s = time.monotonic(), 0.0
    if is_killed:
        time.sleep(WINDOW_S / 3)
        assert desired() == 2
        before = planned_at()
        kill_operator()
        kube.wait_for("a plan of the new process", lambda: planned_at() > before, 120)
        back_s = time.monotonic() - fell_s
    kube.wait_for("one decode engine wanted", lambda: desired() == 1, SHRUNK_S, every_s=0.5)
    return time.monotonic() - fell_s, back_s


def test_a_killed_operator_shrinks_a_pool_when_one_that_lives_would(url: str) -> None:
    alive_s, _ = seconds_until_small(url, is_killed=False)
    killed_s, back_s = seconds_until_small(url, is_killed=True)
    print(f"one engine wanted {alive_s:.0f} s after the load; with a kill {killed_s:.0f} s, back after {back_s:.0f} s")
    assert alive_s > WINDOW_S / 3 + INTERVAL_S, "the kill came within the window since the last want"
    assert killed_s >= alive_s - 2 * INTERVAL_S, "one interval, and one for their phases"
    assert killed_s <= max(alive_s, back_s) + 2 * INTERVAL_S
