"""What clients see when engines fail, vanish or are not there, and what engines see when clients leave."""

import asyncio
import json
import logging
import socket
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import openai
import pytest

from llmservice_core import metric_names as names
from llmservice_core.contract import HEADER_CLASS
from llmservice_serving.router import app as router_app
from llmservice_serving.router import engines
from tests.serving.router_fakes import Engine, events, router, until

ASK = {"model": "chat", "prompt": "hello", "max_tokens": 5}
STREAM = {**ASK, "stream": True}
STRICT = {HEADER_CLASS: "interactive"}
REQUESTS, RETRIES = "llmservice_router_requests_total", "llmservice_router_retries_total"


@pytest.mark.parametrize("mode", ["close", "error", "busy"])
@pytest.mark.parametrize("body", [ASK, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("bad_pool", ["prefill", "decode"])
async def test_a_failing_engine_is_replaced_by_another(
    tmp_path: Path, bad_pool: str, body: dict[str, object], mode: str
) -> None:
    p, d = Engine("p"), Engine("d")
    bad, good = Engine("bad", mode=mode), Engine("good")
    pools = {"prefill": [p], "decode": [d]} | {bad_pool: [bad, good]}
    async with router(tmp_path, **pools) as r:  # type: ignore[arg-type]
        while not bad.bodies:
            async with r.post(body) as reply:
                assert reply.status == 200
                assert "good" in await reply.text() or bad_pool == "prefill"
        assert await r.metric(RETRIES, phase=bad_pool) == 1
        assert await r.metric(REQUESTS, outcome="ok") == await r.metric(REQUESTS)
    assert good.bodies


async def test_a_failed_engine_gets_nothing_for_a_moment_and_then_again(tmp_path: Path) -> None:
    bad, good = Engine("bad", mode="close"), Engine("good")
    async with router(tmp_path, mixed=[bad, good], exclude_s=0.3) as r:
        while not bad.bodies:
            await (await r.post(ASK)).read()
        bad.mode = "ok"
        for _ in range(10):
            await (await r.post(ASK)).read()
        assert len(bad.bodies) == 1
        await asyncio.sleep(0.35)
        while len(bad.bodies) == 1:
            await (await r.post(ASK)).read()


async def test_a_refused_connection_is_retried_elsewhere(tmp_path: Path) -> None:
    good = Engine("good")
    async with router(tmp_path, mixed=[good]) as r:
        known = r.shared.fleet.snapshot()[0]
        while not await r.metric(RETRIES, reason="connect"):
            r.shared.fleet.update([known, replace(known, name="dead", url="http://127.0.0.1:9")])
            async with r.post(STREAM) as reply:
                assert "[DONE]" in await reply.text()
        assert await r.metric(REQUESTS) == await r.metric(REQUESTS, outcome="ok") == len(good.bodies)


async def test_a_stream_cut_in_the_middle_ends_with_an_error_event(tmp_path: Path) -> None:
    cut = Engine("d", mode="cut")
    async with router(tmp_path, prefill=[Engine("p")], decode=[cut, Engine("e", mode="cut")]) as r:
        async with r.post(STREAM) as reply:
            text = await reply.text()
        assert text.count("data: ") == 3
        assert "[DONE]" not in text
        assert json.loads(text.strip().split("data: ")[-1])["error"]["code"] == 502
        assert await r.metric(REQUESTS, outcome="failed", code="200") == 1
        assert await r.metric(RETRIES) == 0
        client = openai.AsyncOpenAI(base_url=r.url + "/v1", api_key="none", max_retries=0)
        await asyncio.sleep(0.35)
        with pytest.raises(openai.APIError, match=r"engine failed .* in the middle"):
            async for _ in await client.completions.create(model="chat", prompt="a", stream=True):
                pass
        await client.close()


async def test_an_error_inside_a_stream_that_has_not_begun_is_retried(tmp_path: Path) -> None:
    bad, good = Engine("bad", mode="stream_error"), Engine("good")
    async with router(tmp_path, mixed=[bad, good]) as r:
        while not bad.bodies:
            async with r.post(STREAM) as reply:
                assert "good3" in await reply.text()


async def test_a_request_that_breaks_engines_does_not_visit_them_all(tmp_path: Path) -> None:
    engines = [Engine(f"m{i}", mode="close") for i in range(6)]
    async with router(tmp_path, mixed=engines, max_attempts=6) as r, r.post(ASK) as reply:
        assert reply.status == 502
        assert (await reply.json())["error"]["type"] == "engine_error"
    assert sum(len(e.bodies) for e in engines) == 2


async def test_no_endpoint_waits_then_503(tmp_path: Path) -> None:
    async with router(tmp_path, mixed=[Engine("m", healthy=False)], wait_for_endpoint_s=0.3) as r:
        started_s = time.monotonic()
        async with r.post(STREAM) as reply:
            assert reply.status == 503
            assert reply.headers["Retry-After"] == "1"
            assert "ready" in (await reply.json())["error"]["message"]
        assert 0.25 < time.monotonic() - started_s < 2
        assert await r.metric("llmservice_router_shed_total", reason="NoEndpoint") == 1
        assert await r.metric("llmservice_router_arrivals_total") == 1


async def test_half_a_pair_is_no_endpoint(tmp_path: Path) -> None:
    async with router(tmp_path, prefill=[Engine("p")], decode=[Engine("d", healthy=False)]) as r, r.post(ASK) as reply:
        assert reply.status == 503


async def test_a_request_waits_for_an_engine_that_becomes_ready(tmp_path: Path) -> None:
    m = Engine("m", healthy=False)
    async with router(tmp_path, mixed=[m], wait_for_endpoint_s=5) as r:
        waiting = asyncio.create_task(r.post(ASK).__aenter__())
        await until(lambda: len(r.shared.room))
        assert await r.metric("llmservice_router_in_flight", phase="queued") == 1
        assert await r.metric("llmservice_router_waiting_prompt_tokens") > 0
        m.healthy = True
        assert (await waiting).status == 200
        assert await r.metric("llmservice_router_in_flight") == 0
        assert await r.metric("llmservice_router_waiting_prompt_tokens") == 0


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_a_client_that_leaves_cancels_the_engine_s_work(
    tmp_path: Path, phase: str, body: dict[str, object]
) -> None:
    p, d = Engine("p"), Engine("d")
    slow = p if phase == "prefill" else d
    slow.mode = "hang"
    async with router(tmp_path, prefill=[p], decode=[d]) as r:
        asking = asyncio.create_task(r.post(body).__aenter__())
        await until(lambda: slow.bodies)
        asking.cancel()
        await until(lambda: slow.closed == 1, timeout_s=1)
        assert await r.metric(REQUESTS, outcome="client_gone", code="499") == 1
        assert await r.metric("llmservice_router_in_flight") == 0
        assert all(e.in_flight == 0 for e in r.shared.fleet.snapshot())


async def test_a_client_that_leaves_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    d = Engine("d", tokens=1000, gap_s=0.01)
    async with router(tmp_path, prefill=[Engine("p")], decode=[d]) as r:
        reply = await r.post(STREAM)
        await reply.content.readuntil(b"\n\n")
        reply.close()
        await until(lambda: d.closed == 1, timeout_s=1)
        assert await r.metric(REQUESTS, outcome="client_gone") == 1


async def test_a_prefill_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    p = Engine("p", mode="hang")
    async with router(tmp_path, prefill=[p], decode=[Engine("d")], prefill_timeout_s=0.2, max_attempts=1) as r:
        async with r.post(ASK, headers=STRICT) as reply:
            assert reply.status == 504
        await until(lambda: p.closed == 1)
        states = {r.shared.fleet.state_of(e) for e in r.shared.fleet.snapshot()}
        assert states == {"ready"}, "a full queue is no dead engine: others still get there"


async def test_a_silent_stream_is_given_up(tmp_path: Path) -> None:
    quiet = Engine("m", gap_s=5)
    async with router(tmp_path, mixed=[quiet], idle_timeout_s=0.2) as r, r.post(STREAM, headers=STRICT) as reply:
        assert (await events(reply))[-1]["error"]["code"] == 504


async def test_a_class_that_may_wait_long_is_not_cut_short(tmp_path: Path) -> None:
    """30 s of TTFT are promised to the default class, so 0.2 s of silence are no reason to give up."""
    p = Engine("p", gap_s=0.6)
    async with router(tmp_path, prefill=[p], decode=[Engine("d")], prefill_timeout_s=0.2, max_attempts=1) as r:
        assert (await r.post(ASK)).status == 200


async def test_a_fault_of_the_router_is_counted_and_answered_in_openais_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with router(tmp_path, mixed=[Engine("m")]) as r:
        monkeypatch.setattr(r.shared.fleet, "choose", lambda **_: 1 / 0)
        async with r.post(ASK) as reply:
            assert reply.status == 500
            assert (await reply.json())["error"]["type"] == "internal_error"
        assert await r.metric(REQUESTS, outcome="failed", code="500") == 1


async def test_every_request_is_an_arrival_whatever_becomes_of_it(tmp_path: Path) -> None:
    async with router(tmp_path, mixed=[Engine("m")]) as r:
        assert (await r.post(ASK, headers={HEADER_CLASS: "gold"})).status == 400
        assert (await r.post(ASK)).status == 200
        assert await r.metric(names.ARRIVALS) == await r.metric(REQUESTS) == 2


async def test_failures_are_logged_in_one_line_and_successes_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="llmservice.router")
    m = Engine("m")
    async with router(tmp_path, mixed=[m]) as r:
        await (await r.post(ASK)).read()
        assert caplog.messages == []
        m.mode = "error"
        await (await r.post(ASK)).read()
    lines = [json.loads(line) for line in caplog.messages]
    assert [line["event"] for line in lines] == ["retry", "failed"]
    assert lines[0].items() >= {"engine": m.url, "reason": "http_500", "class": "batch"}.items()
    assert lines[0]["request"] == lines[1]["request"]


async def test_leaving_finishes_open_streams(tmp_path: Path) -> None:
    m = Engine("m", tokens=20, gap_s=0.02)
    async with router(tmp_path, mixed=[m], drain_delay_s=0.05) as r:
        reply = await r.post(STREAM)
        leaving = asyncio.create_task(router_app.leave(r.shared, r.doors.site))
        await asyncio.sleep(0.02)
        async with r.client.get(r.admin + "/readyz") as ready:
            assert ready.status == 503
        async with r.post(ASK) as late:
            assert (late.status, late.headers["Connection"]) == (200, "close")
        await asyncio.sleep(0.1)
        with pytest.raises(aiohttp.ClientConnectorError):
            await r.post(ASK)
        assert "[DONE]" in await reply.text()
        await asyncio.wait_for(leaving, 2)


async def test_leaving_cuts_what_does_not_end_with_a_word(tmp_path: Path) -> None:
    m = Engine("m", tokens=10_000, gap_s=0.02)
    async with router(tmp_path, mixed=[m], drain_delay_s=0.0, drain_limit_s=0.2) as r:
        reply = await r.post(STREAM)
        await router_app.leave(r.shared, r.doors.site)
        assert (await events(reply))[-1]["error"]["message"] == "The router is stopping."
        await until(lambda: m.closed == 1)


def test_connections_to_engines_are_probed() -> None:
    """A node that vanishes sends no reset: without probes a stream would hang for idle_timeout_s."""
    with engines._socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 9))) as made:
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        assert [made.getsockopt(socket.IPPROTO_TCP, o) for o in options] == [5, 3, 3, 14_000]
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
