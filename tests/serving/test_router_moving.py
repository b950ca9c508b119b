"""The deadline of a drain: what a pod still has goes on in another one, and its client sees one stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmservice_core import metric_names as names
from llmservice_core.contract import ANNOTATION_DRAIN, ANNOTATION_MODEL
from tests.serving.resume_fakes import TokenEngine, seen
from tests.serving.router_fake_api import FakeApi, pod, states, watched
from tests.serving.router_fakes import MANIFEST, Router, events, running, until

BODY: dict[str, Any] = {"model": "chat", "prompt": [7, 8], "max_tokens": 60, "temperature": 0, "stream": True}
GAP_S = 0.05
"""A stream takes 3 s and the deadline is one: it ends in the middle, or the answer would have been whole anyway."""


def mark_of(kind: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"annotations": {ANNOTATION_DRAIN: now}} if kind == "drain" else {"deletionTimestamp": now}


def of_model(mark: dict[str, Any], model: str) -> dict[str, Any]:
    return {**mark, "annotations": {**mark.get("annotations", {}), ANNOTATION_MODEL: model}}


@asynccontextmanager
async def two_pods(tmp_path: Path, engine: TokenEngine) -> AsyncIterator[tuple[Router, FakeApi]]:
    """Pod `a` alone; others are to come. All are one engine, so a stream is known by the pod it is counted on."""
    api, manifest = FakeApi(), deepcopy(MANIFEST)
    manifest["spec"]["scaling"] = {"scaleDown": {"drainDeadline": "1s"}}
    api.objects["llmservices"] = {"chat": manifest}
    api.put("pods", pod("a"), "ADDED")
    async with running([engine]), watched(tmp_path, api, int(engine.url.rsplit(":", 1)[1])) as r:
        await until(lambda: states(r) == {"a": "ready"} and r.shared.not_ready() is None)
        yield r, api


def in_flight(r: Router, name: str) -> int:
    return int(r.shared.fleet.told()[name]["in_flight"])


async def asked(r: Router, body: dict[str, Any]) -> dict[str, Any]:
    async with r.post(body) as reply:
        assert reply.status == 200
        return seen(await events(reply)) if body.get("stream") else dict(await reply.json())


async def moved(r: Router, api: FakeApi, engine: TokenEngine, body: dict[str, Any], mark: Any, second: Any) -> Any:
    """The answer to a request that was on `a` when `second` came and `a` was told to leave."""
    asking = asyncio.create_task(asked(r, body))
    await until(lambda: len(engine.bodies) == 1)
    api.put("pods", second, "ADDED")
    api.put("pods", pod("a", **mark))
    await until(lambda: states(r) == {"a": "draining", "b": "ready"}, timeout_s=1)
    return await asking


@pytest.mark.parametrize("kind", ["drain", "deletion"])
async def test_a_stream_goes_on_in_another_pod(tmp_path: Path, kind: str) -> None:
    engine = TokenEngine("e", gap_s=GAP_S)
    async with two_pods(tmp_path, engine) as (r, api):
        one = await moved(r, api, engine, BODY, mark_of(kind), pod("b"))
        assert (len(engine.bodies), engine.closed) == (2, 1), "the first engine was told to stop"
        assert len(engine.bodies[1]["prompt"]) > len(BODY["prompt"])
        assert one == await asked(r, BODY), "as if nothing had been"
        assert await r.metric(names.RETRIES, reason="drain_deadline") == 1
        assert await r.metric(names.REQUESTS, outcome="ok") == 2
        assert [in_flight(r, name) for name in "ab"] == [0, 0]


async def test_an_answer_that_does_not_stream_is_asked_for_again(tmp_path: Path) -> None:
    engine = TokenEngine("e", gap_s=3.0)
    async with two_pods(tmp_path, engine) as (r, api):
        one = await moved(r, api, engine, {**BODY, "stream": False}, mark_of("drain"), pod("b"))
        assert one["choices"][0]["text"] == "e"
        assert (len(engine.bodies), engine.closed) == (2, 1)


async def test_what_cannot_go_on_elsewhere_ends_with_an_error_event(tmp_path: Path) -> None:
    engine = TokenEngine("e", gap_s=GAP_S)
    async with two_pods(tmp_path, engine) as (r, api):
        one = await moved(r, api, engine, {**BODY, "presence_penalty": 1}, mark_of("drain"), pod("b"))
        assert "drain_deadline" in one["errors"][0]["message"]
        assert await r.metric(names.RESUMES, outcome="presence_penalty") == 1


async def test_a_pod_of_another_model_takes_nothing(tmp_path: Path) -> None:
    engine = TokenEngine("e", gap_s=GAP_S)
    other = pod("b", annotations={ANNOTATION_MODEL: "other"})
    async with two_pods(tmp_path, engine) as (r, api):
        one = await moved(r, api, engine, BODY, of_model(mark_of("drain"), "first"), other)
        assert (len(engine.bodies), engine.closed, one["errors"]) == (1, 0, [])
        assert await r.metric(names.RETRIES) == 0


async def test_the_only_pod_keeps_what_it_has(tmp_path: Path) -> None:
    engine = TokenEngine("e", gap_s=GAP_S)
    async with two_pods(tmp_path, engine) as (r, api):
        asking = asyncio.create_task(asked(r, BODY))
        await until(lambda: engine.bodies)
        api.put("pods", pod("b", ready=False), "ADDED")
        api.put("pods", pod("a", **mark_of("deletion")))
        assert (await asking)["errors"] == []
        assert (len(engine.bodies), engine.closed) == (1, 0)
