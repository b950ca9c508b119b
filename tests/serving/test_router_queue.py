"""The router's own queue through a real router: order, room, refusals, bounds, leaving, fairness, choice of engines."""

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from llmservice_core import metric_names as names
from llmservice_core.contract import HEADER_CLASS, HEADER_SESSION
from tests.serving.router_fakes import Engine, Router, router, until
from tests.serving.router_gates import RELAXED, STRICT, Gated, ask, classes, occupied, sent, sent_in_order
from tests.serving.router_keys import ACME, GAMMA, bearer, folder

ROOM = {"step_tokens": 50}
"""An engine may hold 100 tokens of prompts."""


def pools(kind: str, engine: Gated) -> dict[str, Any]:
    return {"mixed": [engine]} if kind == "mixed" else {"prefill": [engine], "decode": [Engine("d")]}


async def finished(engine: Gated, *tasks: asyncio.Task[Any]) -> list[int]:
    engine.let_through(1000)
    return [(await task).status for task in tasks]


@pytest.mark.parametrize("kind", ["mixed", "pair"])
async def test_strict_first_then_shortest_first_whatever_came_first(tmp_path: Path, kind: str) -> None:
    engine = Gated("e")
    async with router(tmp_path, **pools(kind, engine), **ROOM) as r:
        first = await occupied(r, engine)
        rows = [(90, RELAXED), (150, STRICT), (10, RELAXED), (120, STRICT)]
        waiting = await sent_in_order(r, *rows)
        assert await r.metric(names.IN_FLIGHT, phase="queued") == 4
        assert await r.metric(names.QUEUE_TOKENS, **{"class": RELAXED}) == 100
        assert await r.metric(names.QUEUE_TOKENS, **{"class": STRICT}) == 270
        assert await finished(engine, first, *waiting) == [200] * 5
        assert await r.metric(names.QUEUE_TOKENS) == await r.metric(names.IN_FLIGHT) == 0
    assert engine.sizes == [100, 120, 150, 10, 90]


async def test_an_engine_holds_about_two_steps(tmp_path: Path) -> None:
    """40 + 40 tokens are fewer than 100, so one more prompt may begin."""
    engine = Gated("e")
    async with router(tmp_path, mixed=[engine], **ROOM) as r:
        tasks = [sent(r, 40) for _ in range(6)]
        await until(lambda: len(r.shared.room) == 3 and len(engine.bodies) == 3)
        assert await finished(engine, *tasks) == [200] * 6


async def test_routers_share_the_room_of_an_engine(tmp_path: Path) -> None:
    engine = Gated("e")
    async with router(tmp_path, mixed=[engine], **ROOM) as r:
        r.shared.door.routers = 2
        first = await occupied(r, engine, 50)
        waiting = await sent_in_order(r, (10, STRICT))
        assert await finished(engine, first, *waiting) == [200, 200]


async def test_the_step_is_the_resource_s(tmp_path: Path) -> None:
    engine = Gated("e")
    spec = {"engine": {"scheduler": {"tokenBudget": 16}}}
    async with router(tmp_path, mixed=[engine], spec=spec) as r:
        first = await occupied(r, engine, 32)
        waiting = await sent_in_order(r, (1, STRICT))
        assert await finished(engine, first, *waiting) == [200, 200]


async def test_many_whole_answers_run_at_once(tmp_path: Path) -> None:
    """Nobody sees where their prompts end: the place is free again when the prompt should be over."""
    engine = Gated("e")
    async with router(tmp_path, mixed=[engine], **ROOM) as r:
        tasks = [sent(r, 100, stream=False) for _ in range(4)]
        await until(lambda: len(engine.bodies) == 4)
        assert await finished(engine, *tasks) == [200] * 4
        assert await r.metric(names.IN_FLIGHT) == 0


async def learned(r: Router, tokens: int = 100) -> None:
    for _ in range(4):
        assert (await sent(r, tokens)).status == 200


@pytest.mark.parametrize("kind", ["mixed", "pair"])
async def test_who_would_be_late_is_told_at_once_and_when_to_come_again(tmp_path: Path, kind: str) -> None:
    engine = Gated("e", token_s=0.002)
    async with router(tmp_path, **pools(kind, engine), **ROOM, spec=classes(shed=[STRICT])) as r:
        await learned(r)
        begun = len(engine.bodies)
        long = sent(r, 2000, RELAXED)
        await until(lambda: len(engine.bodies) > begun)
        reply = await sent(r, 20)
        error = (await reply.json())["error"]
        assert (reply.status, error["code"]) == (429, "late")
        assert "this class promises 0.5 s" in error["message"]
        assert 3 <= int(reply.headers["Retry-After"]) <= 9, "four seconds of work, more where a machine is slow"
        assert await r.metric(names.SHED, reason="late", **{"class": STRICT}) == 1
        assert await r.metric(names.REQUESTS, code="429", outcome="shed") == 1
        assert await r.metric(names.SLO_EVENTS, **{"class": STRICT}) == 5, "a miss is an event"
        client = openai.AsyncOpenAI(base_url=r.url + "/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.RateLimitError):
            await client.completions.create(
                model="chat", prompt=[7] * 20, stream=True, extra_headers={HEADER_CLASS: STRICT}
            )
        await client.close()
        assert len(r.shared.room) == 0
        long.cancel()


async def test_a_prompt_that_alone_takes_longer_is_told_that_waiting_is_no_use(tmp_path: Path) -> None:
    engine = Gated("e", token_s=0.002)
    async with router(tmp_path, mixed=[engine], spec=classes(shed=[STRICT])) as r:
        await learned(r)
        reply = await sent(r, 5000)
        assert (reply.status, reply.headers["x-should-retry"]) == (429, "false")
        assert "alone" in (await reply.json())["error"]["message"]


async def test_a_class_that_is_never_shed_waits(tmp_path: Path) -> None:
    engine = Gated("e", token_s=0.002)
    async with router(tmp_path, mixed=[engine], **ROOM, spec=classes(shed=[RELAXED])) as r:
        await learned(r)
        begun = len(engine.bodies)
        long = sent(r, 500)
        await until(lambda: len(engine.bodies) > begun)
        assert (await sent(r, 20)).status == 200
        assert (await long).status == 200
        assert await r.metric(names.TTFT_PREDICTION_ERROR + "_count") >= 2


async def test_who_becomes_late_while_waiting_is_told_then(tmp_path: Path) -> None:
    """Nothing is known of the engine, so nobody is refused for it before the target has passed."""
    engine = Gated("e")
    async with router(tmp_path, mixed=[engine], **ROOM, spec=classes(shed=[STRICT], interactive="200ms")) as r:
        first = await occupied(r, engine)
        reply = await sent(r, 20)
        assert (reply.status, reply.headers["Retry-After"]) == (429, "1")
        assert len(engine.bodies) == 1
        assert await finished(engine, first) == [200]


async def test_the_queue_is_bounded_by_the_tokens_of_a_class(tmp_path: Path) -> None:
    engine = Gated("e")
    async with router(tmp_path, mixed=[engine], **ROOM, queue_tokens=100) as r:
        first = await occupied(r, engine)
        waiting = await sent_in_order(r, (60, RELAXED), (40, RELAXED))
        reply = await sent(r, 1, RELAXED)
        error = (await reply.json())["error"]
        assert (reply.status, error["code"]) == (503, "queue_full")
        assert int(reply.headers["Retry-After"]) >= 1
        waiting += await sent_in_order(r, (100, STRICT))
        assert await r.metric(names.SHED, reason="queue_full") == 1
        assert await finished(engine, first, *waiting) == [200] * 4


async def test_who_leaves_the_queue_is_forgotten_at_once(tmp_path: Path) -> None:
    engine = Gated("e")
    async with router(tmp_path, mixed=[engine], **ROOM) as r:
        first = await occupied(r, engine)
        gone, stays = await sent_in_order(r, (30, STRICT), (40, STRICT))
        gone.cancel()
        await until(lambda: len(r.shared.room) == 1, timeout_s=1)
        assert await r.metric(names.REQUESTS, outcome="client_gone") == 1
        assert await finished(engine, first, stays) == [200, 200]
        assert await r.metric(names.WAITING_PROMPT_TOKENS) == 0
    assert engine.sizes == [100, 40]


async def test_a_place_that_a_client_leaves_goes_to_the_next(tmp_path: Path) -> None:
    engine = Gated("e")
    async with router(tmp_path, mixed=[engine], **ROOM) as r:
        first = await occupied(r, engine)
        (waiting,) = await sent_in_order(r, (40, STRICT))
        first.cancel()
        await until(lambda: len(engine.bodies) == 2, timeout_s=1)
        assert await finished(engine, waiting) == [200]


async def test_who_was_failed_by_an_engine_does_not_queue_again(tmp_path: Path) -> None:
    bad, good = Gated("bad", mode="close"), Gated("good")
    async with router(tmp_path, mixed=[bad, good], **ROOM) as r:
        tasks = [sent(r, 100), sent(r, 100)]
        await until(lambda: bad.bodies and good.bodies)
        bad.let_through()
        await until(lambda: len(good.bodies) == 2, timeout_s=1)
        assert await finished(good, *tasks) == [200, 200]
        assert await r.metric(names.RETRIES) == 1


TENANTS = {"acme": {"keys": [ACME]}, "gamma": {"keys": [GAMMA]}}


async def test_a_tenant_that_sends_much_does_not_stand_before_one_that_sends_little(tmp_path: Path) -> None:
    engine = Gated("e")
    async with router(tmp_path, mixed=[engine], **ROOM, keys_dir=str(folder(tmp_path, TENANTS))) as r:
        first = await occupied(r, engine, key=ACME)
        loud = await sent_in_order(r, *((100, STRICT, ACME) for _ in range(6)))
        quiet = await sent_in_order(r, (200, STRICT, GAMMA), (200, STRICT, GAMMA))
        assert await finished(engine, first, *loud, *quiet) == [200] * 9
    tenants = [body["vllm_xargs"]["tenant"] for body in engine.bodies]
    assert tenants[:3].count("gamma") == 1
    assert tenants[:7].count("gamma") == 2


async def test_when_the_queue_is_full_the_last_of_the_loudest_leaves(tmp_path: Path) -> None:
    engine, keys = Gated("e"), str(folder(tmp_path, TENANTS))
    async with router(tmp_path, mixed=[engine], **ROOM, keys_dir=keys, queue_tokens=100) as r:
        first = await occupied(r, engine, key=ACME)
        stays, leaves = await sent_in_order(r, (50, STRICT, ACME), (45, STRICT, ACME))
        quiet = sent(r, 30, key=GAMMA)
        assert (await leaves).status == 503
        assert (await sent(r, 30, key=ACME)).status == 503
        assert await finished(engine, first, stays, quiet) == [200] * 3


async def test_without_keys_no_tenant_is_sent(tmp_path: Path) -> None:
    engine = Engine("e")
    async with router(tmp_path, mixed=[engine]) as r:
        await sent(r, 5)
    assert "tenant" not in engine.body["vllm_xargs"]


def routed(policy: str) -> dict[str, Any]:
    return {"router": {"routing": policy}}


async def test_a_session_stays_with_its_engine(tmp_path: Path) -> None:
    engines = [Engine(f"m{i}") for i in range(4)]
    async with router(tmp_path, mixed=engines, spec=routed("session")) as r:
        for i in range(12):
            async with r.post(ask(10), headers={HEADER_SESSION: f"s{i % 2}"}) as reply:
                await reply.read()
    assert sorted(len(e.bodies) for e in engines if e.bodies) in ([6, 6], [12])


async def test_a_prompt_goes_where_its_beginning_was_computed(tmp_path: Path) -> None:
    engines = [Engine(f"m{i}") for i in range(4)]
    texts = [{"messages": [{"role": "user", "content": start * 400}]} for start in ("abcd", "wxyz")]
    async with router(tmp_path, mixed=engines, spec=routed("prefix-affinity")) as r:
        for i in range(12):
            turn = {"role": "user", "content": str(i)}
            body = {"messages": [*texts[i % 2]["messages"], turn], "model": "chat", "stream": True}
            async with r.post(body, path="/v1/chat/completions") as reply:
                await reply.read()
    assert sorted(len(e.bodies) for e in engines if e.bodies) in ([6, 6], [12])


async def test_a_setting_goes_before_the_resource(tmp_path: Path) -> None:
    async with router(tmp_path, mixed=[Engine("m")], spec=routed("session"), policy="random") as r:
        assert r.shared.fleet.policy == "random"


async def test_the_queue_outlives_a_change_of_the_fleet(tmp_path: Path) -> None:
    engine = Gated("e")
    async with router(tmp_path, mixed=[engine], **ROOM, wait_for_endpoint_s=5) as r:
        first = await occupied(r, engine)
        waiting = await sent_in_order(r, (10, STRICT))
        engine.healthy = False
        await until(lambda: not any(e.ready for e in r.shared.fleet.snapshot()))
        engine.healthy = True
        assert await finished(engine, first, *waiting) == [200, 200]


async def test_waiting_for_room_is_not_waiting_for_an_engine(tmp_path: Path) -> None:
    """Who waits for its turn is not told after `wait_for_endpoint_s` that no engine exists."""
    engine = Gated("e")
    async with router(tmp_path, mixed=[engine], **ROOM, wait_for_endpoint_s=0.1) as r:
        first = await occupied(r, engine)
        waiting = await sent_in_order(r, (10, STRICT))
        await asyncio.sleep(0.3)
        assert await finished(engine, first, *waiting) == [200, 200]


async def test_who_names_no_session_is_routed_by_work(tmp_path: Path) -> None:
    keys = str(folder(tmp_path, TENANTS))
    async with (
        router(tmp_path, mixed=[Engine("m")], spec=routed("session"), keys_dir=keys) as r,
        r.post(ask(3), headers=bearer(ACME)) as reply,
    ):
        assert reply.status == 200
