"""A pod that is marked as draining: nothing new within a second, streams on it whole, and the operator can ask."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmservice_core.contract import ANNOTATION_DRAIN, PATH_FLEET
from tests.serving.router_fake_api import FakeApi, pod, states, watched
from tests.serving.router_fakes import Engine, Router, events, running, until

STREAM = {"model": "chat", "prompt": "hello", "max_tokens": 40, "stream": True}
NOW = datetime.now(UTC).isoformat(timespec="seconds")
MARKS: dict[str, Any] = {
    "drain": {"annotations": {ANNOTATION_DRAIN: NOW}},
    "deletion": {"deletionTimestamp": NOW},
}


async def fleet(r: Router) -> Any:
    async with r.client.get(r.admin + PATH_FLEET) as reply:
        assert reply.status == 200
        return await reply.json()


@pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS.keys())
async def test_a_marked_pod_gets_nothing_new_and_its_stream_ends_whole(tmp_path: Path, mark: Any) -> None:
    """Both pods are one engine at two addresses, so that a stream is known by the pod that the router counts it on."""
    engine, api = Engine("e", tokens=40, gap_s=0.05), FakeApi()
    api.put("pods", pod("a"), "ADDED")
    async with running([engine]), watched(tmp_path, api, int(engine.url.rsplit(":", 1)[1])) as r:
        await until(lambda: states(r) == {"a": "ready"} and r.shared.not_ready() is None)
        async with r.post(STREAM) as stream:
            await until(lambda: engine.bodies)
            api.put("pods", pod("b"), "ADDED")
            api.put("pods", pod("a", **mark))
            marked_s = time.monotonic()
            await until(lambda: states(r)["a"] == "draining", timeout_s=1)
            assert time.monotonic() - marked_s < 1
            told = await fleet(r)
            assert (told["a"]["state"], told["a"]["in_flight"], told["b"]["in_flight"]) == ("draining", 1, 0)
            assert told["a"]["work_tokens"] > 0
            others = [asyncio.create_task(_ask(r)) for _ in range(8)]
            await until(lambda: len(engine.bodies) == 9)
            told = await fleet(r)
            assert (told["a"]["in_flight"], told["b"]["in_flight"]) == (1, 8)
            assert len([e for e in await events(stream) if e["choices"]]) == 40
        await asyncio.gather(*others)
        told = await fleet(r)
        assert (told["a"]["in_flight"], told["b"]["in_flight"]) == (0, 0)
    assert engine.closed == 0


async def _ask(r: Router) -> None:
    async with r.post(STREAM) as reply:
        assert len([e for e in await events(reply) if e["choices"]]) == 40


async def test_the_only_pod_serves_on_until_its_successor_is_there(tmp_path: Path) -> None:
    engine, api = Engine("e", gap_s=0.05), FakeApi()
    api.put("pods", pod("a", **MARKS["deletion"]), "ADDED")
    api.put("pods", pod("b", ready=False), "ADDED")
    async with running([engine]), watched(tmp_path, api, int(engine.url.rsplit(":", 1)[1])) as r:
        await until(lambda: states(r) == {"a": "draining", "b": "not_ready"} and r.shared.not_ready() is None)
        assert await _plain(r) == 200
        api.put("pods", pod("b"))
        await until(lambda: states(r)["b"] == "ready")
        asked = asyncio.create_task(_plain(r))
        await until(lambda: len(engine.bodies) == 2)
        assert [(await fleet(r))[name]["in_flight"] for name in "ab"] == [0, 1]
        assert await asked == 200


async def test_a_drain_taken_back_gets_requests_again(tmp_path: Path) -> None:
    engine, api = Engine("e", gap_s=0.05), FakeApi()
    api.put("pods", pod("a", **MARKS["drain"]), "ADDED")
    api.put("pods", pod("b"), "ADDED")
    async with running([engine]), watched(tmp_path, api, int(engine.url.rsplit(":", 1)[1])) as r:
        await until(lambda: states(r) == {"a": "draining", "b": "ready"} and r.shared.not_ready() is None)
        await until(lambda: len(api.watches) == 2)
        api.put("pods", pod("a"))
        await until(lambda: states(r)["a"] == "ready", timeout_s=1)
        asked = [asyncio.create_task(_plain(r)) for _ in range(2)]
        await until(lambda: len(engine.bodies) == 2)
        assert [(await fleet(r))[name]["in_flight"] for name in "ab"] == [1, 1]
        assert await asyncio.gather(*asked) == [200, 200]


async def _plain(r: Router) -> int:
    async with r.post({**STREAM, "stream": False}) as reply:
        return int(reply.status)


async def test_requests_on_a_pod_that_is_gone_are_told_until_they_end(tmp_path: Path) -> None:
    engine, api = Engine("e", tokens=20, gap_s=0.02), FakeApi()
    api.put("pods", pod("a"), "ADDED")
    async with running([engine]), watched(tmp_path, api, int(engine.url.rsplit(":", 1)[1])) as r:
        await until(lambda: states(r) == {"a": "ready"} and r.shared.not_ready() is None)
        async with r.post(STREAM) as stream:
            await until(lambda: engine.bodies)
            api.put("pods", pod("a"), "DELETED")
            await until(lambda: states(r) == {})
            told = await fleet(r)
            assert (told["a"]["state"], told["a"]["in_flight"]) == ("gone", 1)
            await events(stream)
        assert await fleet(r) == {}


async def test_a_router_that_has_not_read_the_pods_does_not_say_that_nobody_is_there(tmp_path: Path) -> None:
    api = FakeApi()
    api.down = True
    async with watched(tmp_path, api) as r, r.client.get(r.admin + PATH_FLEET) as reply:
        assert reply.status == 503
