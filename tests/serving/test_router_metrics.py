"""The router's series: names, labels, from the start, and TTFT events as design.md section 1 judges them."""

import asyncio
from pathlib import Path

from llmservice_core import metric_names as names
from tests.serving.router_fakes import Engine, router, until

ASK = {"model": "chat", "prompt": "hello", "max_tokens": 5}
STREAM = {**ASK, "stream": True}
STRICT = {"x-llmservice-class": "interactive"}
EVENTS, GOOD = names.SLO_EVENTS, names.SLO_GOOD


async def test_every_class_has_its_series_from_the_start(tmp_path: Path) -> None:
    async with router(tmp_path, mixed=[Engine("m")]) as r:
        series = await r.metrics()
    assert (
        series['llmservice_slo_events_total{class="interactive",llmservice="default/chat",slo="ttft",target="0.5"}']
        == 0
    )
    assert series['llmservice_slo_good_total{class="batch",llmservice="default/chat",slo="ttft",target="30"}'] == 0
    per_class = [names.ARRIVALS, names.PROMPT_TOKENS, names.PROMPTS, names.CACHED_TOKENS, names.OUTPUT_TOKENS]
    for name in (*per_class, names.ANSWERS, names.REQUESTS, names.IN_FLIGHT, names.SHED):
        for c in ("interactive", "batch"):
            found = [v for s, v in series.items() if s.startswith(name + "{") and f'class="{c}"' in s]
            assert found, (name, c)
            assert not any(found)
    assert series['llmservice_router_endpoints{llmservice="default/chat",pool="mixed",state="ready"}'] == 1
    assert series['llmservice_router_endpoints{llmservice="default/chat",pool="decode",state="ready"}'] == 0
    assert all('llmservice="default/chat"' in s for s in series)
    assert not any(s.partition("{")[0].endswith("_created") for s in series)


async def test_counts_of_a_two_step_stream(tmp_path: Path) -> None:
    async with router(tmp_path, prefill=[Engine("p")], decode=[Engine("d")]) as r:
        await (await r.post(STREAM, headers=STRICT)).read()
        for name, value in {names.ARRIVALS: 1, names.PROMPTS: 1, names.PROMPT_TOKENS: 10, names.ANSWERS: 1}.items():
            assert await r.metric(name, **{"class": "interactive"}) == value
            assert await r.metric(name, **{"class": "batch"}) == 0
        assert await r.metric(names.OUTPUT_TOKENS) == 4
        assert await r.metric(names.TTFT_SECONDS + "_count") == 1
        assert await r.metric(EVENTS, target="0.5") == await r.metric(GOOD, target="0.5") == 1
        parts = {p: await r.metric(names.TTFT_PART_SECONDS + "_sum", part=p) for p in names.TTFT_PARTS}
        total = await r.metric(names.TTFT_SECONDS + "_sum")
        assert abs(sum(parts.values()) - total) < 0.01
        assert await r.metric(names.IN_FLIGHT) == 0


async def test_prompt_tokens_are_counted_when_the_prefill_ends(tmp_path: Path) -> None:
    d = Engine("d", mode="hang")
    async with router(tmp_path, prefill=[Engine("p")], decode=[d]) as r:
        asking = asyncio.create_task(r.post(STREAM).__aenter__())
        await until(lambda: d.bodies)
        assert await r.metric(names.PROMPT_TOKENS) == 10
        assert await r.metric(names.IN_FLIGHT, phase="decode") == 1
        assert await r.metric(names.WAITING_PROMPT_TOKENS) == 0
        asking.cancel()


async def test_waiting_prompt_tokens_while_in_prefill(tmp_path: Path) -> None:
    p = Engine("p", mode="hang")
    async with router(tmp_path, prefill=[p], decode=[Engine("d")]) as r:
        asking = asyncio.create_task(r.post({**STREAM, "prompt": [7] * 300}).__aenter__())
        await until(lambda: p.bodies)
        assert await r.metric(names.WAITING_PROMPT_TOKENS) == 300
        assert await r.metric(names.IN_FLIGHT, phase="prefill") == 1
        asking.cancel()


async def test_a_late_first_token_is_a_miss_at_the_target_not_later(tmp_path: Path) -> None:
    p = Engine("p", gap_s=0.9)
    async with router(tmp_path, prefill=[p], decode=[Engine("d")]) as r:
        asking = asyncio.create_task(r.post(STREAM, headers=STRICT).__aenter__())
        await asyncio.sleep(0.7)
        assert await r.metric(EVENTS, target="0.5") == 1
        await (await asking).read()
        assert await r.metric(EVENTS, target="0.5") == 1
        assert await r.metric(GOOD, target="0.5") == 0


async def test_a_client_that_leaves_before_the_target_is_no_event_and_after_it_is_a_miss(tmp_path: Path) -> None:
    p = Engine("p", mode="hang")
    async with router(tmp_path, prefill=[p], decode=[Engine("d")]) as r:
        for stay_s, expected in ((0.2, 0), (0.7, 1)):
            asking = asyncio.create_task(r.post(STREAM, headers=STRICT).__aenter__())
            await asyncio.sleep(stay_s)
            asking.cancel()
            await until(lambda: not r.shared.running)
            assert await r.metric(EVENTS) == expected
        assert await r.metric(GOOD) == 0


async def test_failed_and_shed_streams_are_misses_and_whole_answers_are_not_judged(tmp_path: Path) -> None:
    m = Engine("m", mode="error")
    async with router(tmp_path, mixed=[m], wait_for_endpoint_s=0.05) as r:
        await (await r.post(STREAM)).read()
        await (await r.post(ASK)).read()
        assert (await r.metric(EVENTS), await r.metric(GOOD)) == (1, 0)
        m.healthy = False
        await until(lambda: not any(e.ready for e in r.shared.fleet.snapshot()))
        async with r.post(STREAM) as reply:
            assert reply.status == 503
        assert (await r.metric(EVENTS), await r.metric(GOOD)) == (2, 0)


async def test_the_waiting_gauge_comes_back_to_exactly_zero(tmp_path: Path) -> None:
    async with router(tmp_path, mixed=[Engine("m")]) as r:
        bodies = [{**STREAM, "prompt": "x" * (7 * i + 3)} for i in range(40)]
        for reply in await asyncio.gather(*(r.post(b) for b in bodies)):
            await reply.read()
        assert await r.metric(names.WAITING_PROMPT_TOKENS) == 0


async def test_an_unknown_class_makes_no_series_of_its_name(tmp_path: Path) -> None:
    async with router(tmp_path, mixed=[Engine("m")]) as r:
        await (await r.post(ASK, headers={"x-llmservice-class": "made-up"})).read()
        series = await r.metrics()
    assert not any("made-up" in s for s in series)


async def test_health_and_readiness(tmp_path: Path) -> None:
    async with router(tmp_path, mixed=[Engine("m")]) as r:
        for path, status in (("/healthz", 200), ("/readyz", 200), ("/v1/models", 404)):
            async with r.client.get(r.admin + path) as reply:
                assert reply.status == status
        r.shared.config = None
        async with r.client.get(r.admin + "/readyz") as reply:
            assert reply.status == 503
            assert "LLMService" in await reply.text()
