"""A keeper of a service without engines: who calls it is noticed without waiting for the next decision."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from llmservice_core.model import Calls, Pool
from llmservice_operator import keeper as keepers
from llmservice_operator.keeper import Keeper
from tests.control.fake_cluster import FakeCluster, keeper, resource, seen

POOLS = {pool: {"minReplicas": 0, "maxReplicas": 2} for pool in ("prefill", "decode")}
CALLED = Calls(quiet_s=0.0, last_s=0.0, waiting=1)
LONG_AGO = Calls(quiet_s=900.0, last_s=900.0, waiting=0)


class Routers:
    """What they answer; `asked` counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: Calls | None = None
        self.asked = 0
        monkeypatch.setattr(keepers.observe_work, "calls", self._calls)
        monkeypatch.setattr(keepers, "ASLEEP_S", 0.02)

    async def _calls(self, http: Any, pods: Any) -> Calls | None:
        self.asked += 1
        return self.said


async def until(holds: Callable[[], Any], timeout_s: float = 5.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


async def asleep(cluster: FakeCluster) -> Keeper:
    """Made without engines; decisions are a minute apart."""
    one = keeper(cluster, resource(pools=POOLS, scaling={"interval": "60s", "gpuBudget": 4}))
    one.world.watches.synced.set()
    await one.pass_once(one.service)
    seen(cluster, one.world.watches)
    assert one.sizes == {Pool.PREFILL: 0, Pool.DECODE: 0}
    return one


def condition(cluster: FakeCluster, kind: str) -> tuple[str, str]:
    assert cluster.status is not None
    return next((c["status"], c["reason"]) for c in cluster.status["conditions"] if c["type"] == kind)


async def test_a_request_is_noticed_at_once_and_both_pools_start(monkeypatch: pytest.MonkeyPatch) -> None:
    routers, cluster = Routers(monkeypatch), FakeCluster()
    one = await asleep(cluster)
    running = asyncio.create_task(one.run())
    try:
        await until(lambda: condition(cluster, "Asleep") == ("True", "ScaledToZero") and routers.asked > 5)
        assert not any(one.sizes.values()), "silence wakes nobody"
        routers.said = LONG_AGO
        before = routers.asked
        await until(lambda: routers.asked > before + 3)
        assert not any(one.sizes.values())
        routers.said = CALLED
        await until(lambda: one.sizes == {Pool.PREFILL: 1, Pool.DECODE: 1}, 2.0)
        await until(lambda: condition(cluster, "Asleep") == ("False", "Waking"))
        assert [m for m in cluster.told("Waking") if "prefill 0 -> 1: woken: 1 requests wait in the routers" in m]
    finally:
        running.cancel()


async def test_nobody_is_asked_of_a_service_that_never_sleeps_and_nobody_any_more_when_the_keeper_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    routers, cluster = Routers(monkeypatch), FakeCluster()
    awake = keeper(cluster, resource())
    await awake.pass_once(awake.service)
    await awake.pass_once(awake.service)
    assert routers.asked == 0
    one = await asleep(FakeCluster())
    running = asyncio.create_task(one.run())
    await until(lambda: routers.asked > 3)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    asked = routers.asked
    await asyncio.sleep(0.1)
    assert routers.asked == asked
