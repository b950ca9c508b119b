"""A router whose service has no engine on purpose: it holds requests, or says when to come again, and tells of them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llmservice_core.planner_facts import DEFAULT_START_UP_S
from llmservice_serving.router.service_config import from_manifest
from tests.serving.router_fake_api import FakeApi, pods_with_engines, watched
from tests.serving.router_fakes import MANIFEST, Engine, Router, until

ASK = {"model": "chat", "prompt": "hello", "max_tokens": 4}
POOLS = {pool: {"minReplicas": 0, "maxReplicas": 2} for pool in ("prefill", "decode")}


def sleepy(*conditions: tuple[str, str], start_up_s: float | None = 70.0, least: int = 0, shed: bool = False) -> Any:
    """The manifest with a status of these conditions, as (type, reason)."""
    body = json.loads(json.dumps(MANIFEST))
    body["spec"]["pools"] = {name: pool | {"minReplicas": least} for name, pool in POOLS.items()}
    if shed:
        body["spec"]["classes"][0]["shed"] = "Late"
    inputs = {} if start_up_s is None else {"start_up_s": start_up_s}
    told = [{"type": kind, "status": "True", "reason": reason} for kind, reason in conditions]
    body["status"] = {"conditions": told, "plan": {"inputs": inputs}}
    return body


ASLEEP = ("Asleep", "ScaledToZero")


@pytest.mark.parametrize(
    ("manifest", "start_up_s"),
    [
        (MANIFEST, None),
        (sleepy(), 70.0),
        (sleepy(start_up_s=None), DEFAULT_START_UP_S),
        (sleepy(ASLEEP), 70.0),
        (sleepy(("Asleep", "Waking")), 70.0),
        (sleepy(("Asleep", "Awake")), None),
        (sleepy(("Asleep", "NeverSleeps"), least=1), None),
        (sleepy(("Asleep", "NeverSleeps"), ("Progressing", "RollingOut"), least=1), None),
        (sleepy(("Asleep", "NeverSleeps"), ("Progressing", "RolloutPause"), least=1), 70.0),
        ({**sleepy(least=0), "status": None}, DEFAULT_START_UP_S),
    ],
    ids=[
        "of no pools",
        "before anybody has told",
        "start-up unknown",
        "asleep",
        "waking",
        "awake",
        "never sleeps",
        "a rollout beside engines that serve",
        "a rollout that pauses",
        "new",
    ],
)
def test_when_engines_are_awaited(manifest: Any, start_up_s: float | None) -> None:
    assert from_manifest(manifest).start_up_s == start_up_s


async def told(r: Router) -> Any:
    async with r.client.get(f"{r.admin}/calls") as reply:
        return await reply.json()


async def ready(r: Router) -> None:
    await until(lambda: r.shared.not_ready() is None)


async def test_a_request_is_held_told_of_and_answered_when_engines_come(tmp_path: Path) -> None:
    """`wait_for_endpoint_s` is 0.2 s: a service that should have engines would have refused long ago."""
    api = FakeApi()
    api.objects["llmservices"]["chat"] = sleepy(ASLEEP)
    engines = {"prefill-1": Engine("p"), "decode-1": Engine("d")}
    async with pods_with_engines(FakeApi(), engines) as port, watched(tmp_path, api, port) as r:
        await ready(r)
        quiet = await told(r)
        assert (quiet["last_s"], quiet["waiting"]) == (None, 0)
        assert quiet["quiet_s"] > 0.0
        asking = asyncio.create_task(r.post(ASK).__aenter__())
        await until(lambda: len(r.shared.room))
        assert await told(r) == {"quiet_s": 0.0, "last_s": 0.0, "waiting": 1}
        await asyncio.sleep(0.5)
        assert not asking.done()
        api.put("llmservices", sleepy(("Asleep", "Waking")))
        for name, address in (("prefill-1", "127.0.0.2"), ("decode-1", "127.0.0.3")):
            api.put("pods", engine_pod(name, address), "ADDED")
        assert (await asking).status == 200
        await until(lambda: not r.shared.running)
        after = await told(r)
        assert after["waiting"] == 0
        assert 0.0 < after["last_s"] == after["quiet_s"] < 2.0


def engine_pod(name: str, address: str) -> Any:
    from tests.serving.router_fake_api import pod

    return pod(name, name.split("-")[0], ip=address)


async def test_a_class_that_does_not_wait_is_refused_at_once_with_the_start_up_time_and_calls_all_the_same(
    tmp_path: Path,
) -> None:
    api = FakeApi()
    api.objects["llmservices"]["chat"] = sleepy(ASLEEP, shed=True)
    async with watched(tmp_path, api) as r:
        await ready(r)
        async with r.post(ASK, headers={"x-llmservice-class": "interactive"}) as reply:
            assert reply.status == 429
            assert 60 <= int(reply.headers["Retry-After"]) <= 70
            error = (await reply.json())["error"]
        assert error["code"] == "late"
        assert "No engine serves now" in error["message"]
        called = await told(r)
        assert called["waiting"] == 0
        assert called["last_s"] < 5.0


async def test_patience_ends_and_the_queue_is_bounded(tmp_path: Path) -> None:
    api = FakeApi()
    api.objects["llmservices"]["chat"] = sleepy(ASLEEP)
    async with watched(tmp_path, api) as r:
        await ready(r)
        r.shared.room.wait_for_start_s = 0.3
        async with r.post(ASK) as reply:
            assert (reply.status, (await reply.json())["error"]["code"]) == (503, "starting")
            assert 60 <= int(reply.headers["Retry-After"]) <= 70
        r.shared.room.wait_for_start_s, r.shared.room.queue_tokens = 60.0, 0
        async with r.post(ASK) as reply:
            assert (reply.status, (await reply.json())["error"]["code"]) == (503, "queue_full")
