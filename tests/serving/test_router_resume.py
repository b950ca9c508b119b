"""A client whose engine dies in the middle of its stream, before a real router and engines that speak token ids."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from llmservice_core import metric_names as names
from tests.serving.resume_fakes import CHAT, TokenEngine, seen
from tests.serving.router_fakes import Engine, Router, events, router, until

COMPLETIONS = "/v1/completions"
BODY: dict[str, Any] = {"model": "chat", "prompt": [7, 8], "max_tokens": 20, "temperature": 0, "stream": True}
TALK = {**{k: v for k, v in BODY.items() if k != "prompt"}, "messages": [{"role": "user", "content": "x"}]}
USAGE = {"stream_options": {"include_usage": True}}
P = TokenEngine("p")


async def told(r: Router, body: dict[str, Any], path: str = COMPLETIONS) -> dict[str, Any]:
    async with r.post(body, path) as reply:
        assert reply.status == 200, await reply.text()
        text = await reply.text()
        assert text.count("[DONE]") == ("error" not in text)
        return seen(await events(reply))


async def undisturbed(tmp_path: Path, body: dict[str, Any], path: str = COMPLETIONS) -> dict[str, Any]:
    async with router(tmp_path, mixed=[TokenEngine("die")]) as r:
        return await told(r, body, path)


@pytest.mark.parametrize("more", [{}, USAGE, {"return_token_ids": True}, {"stop": ["xy."]}])
@pytest.mark.parametrize(("path", "body"), [(COMPLETIONS, BODY), (CHAT, TALK)], ids=["completion", "chat"])
@pytest.mark.parametrize("pools", ["pair", "mixed"])
async def test_the_client_sees_one_stream(
    tmp_path: Path, pools: str, path: str, body: dict[str, Any], more: dict[str, Any]
) -> None:
    dying, good = TokenEngine("die", mode="die", die_after=7), TokenEngine("good", gap_s=0.001)
    engines: dict[str, Any] = {"mixed": [dying, good]}
    if pools == "pair":
        engines = {"prefill": [TokenEngine("p")], "decode": [dying, good]}
    async with router(tmp_path, **engines) as r:
        while not dying.bodies:
            one = await told(r, {**body, **more}, path)
        assert one == await undisturbed(tmp_path, {**body, **more}, path)
        assert await r.metric(names.RESUMES, outcome="resumed") == 1
        assert await r.metric(names.RETRIES, phase="decode", reason="disconnect") == 1
        assert await r.metric(names.REQUESTS, outcome="ok") == await r.metric(names.REQUESTS)
        assert await r.metric(names.OUTPUT_TOKENS) == 20 * await r.metric(names.REQUESTS)
        assert await r.metric(names.PROMPTS) == await r.metric(names.REQUESTS), "one prompt, though computed twice"
        assert await r.metric(names.TTFT_SECONDS + "_count") == await r.metric(names.REQUESTS)
        assert await r.metric(names.IN_FLIGHT) == 0
        assert all(e.in_flight == 0 for e in r.shared.fleet.snapshot())


async def test_the_prefill_of_the_rest_has_the_tokens_so_far(tmp_path: Path) -> None:
    p, dying = TokenEngine("p"), TokenEngine("die", mode="die", die_after=6)
    async with router(tmp_path, prefill=[p], decode=[dying, TokenEngine("good")]) as r:
        while not dying.bodies:
            p.bodies.clear()
            await told(r, {**BODY, "min_tokens": 8})
    first, rest = p.bodies
    assert first["prompt"] == [7, 8]
    assert rest["prompt"][:2] == [7, 8]
    assert len(rest["prompt"]) in (7, 8), "six tokens were out, of which the last may have been half a character"
    assert rest["max_tokens"] == 1
    assert "min_tokens" not in rest


async def test_a_stream_that_goes_on_is_not_late_by_the_time_that_its_tokens_took(tmp_path: Path) -> None:
    """Engines put late prompts last, and this one's next token is due now."""
    dying, good = TokenEngine("die", mode="die", die_after=10, gap_s=0.1), TokenEngine("good")
    async with router(tmp_path, mixed=[dying, good]) as r:
        while not dying.bodies:
            good.bodies.clear()
            await told(r, BODY)
    assert good.body["vllm_xargs"]["age_s"] < 0.5


async def test_a_stream_survives_one_engine_after_another(tmp_path: Path) -> None:
    dying = [TokenEngine(f"d{i}", mode="die", die_after=5) for i in range(3)]
    async with router(tmp_path, mixed=[*dying, TokenEngine("good")]) as r:
        for _ in range(40):  # which engine a request gets is drawn
            one = await told(r, {**BODY, **USAGE})
            assert (one["errors"], one["finish"]) == ([], ["length"])
            assert one["usage"] == [{"prompt_tokens": 2, "completion_tokens": 20, "total_tokens": 22}]
            if await r.metric(names.RETRIES) >= 3:
                break
        assert await r.metric(names.RETRIES) >= 3


@pytest.mark.parametrize("after", [20, 21])
async def test_an_engine_that_dies_after_the_last_token_leaves_a_whole_answer(tmp_path: Path, after: int) -> None:
    """After the 20th token its usage and its [DONE] are missing, or [DONE] alone; nothing is computed again."""
    dying, other = TokenEngine("die", mode="die", die_after=after), TokenEngine("other")
    async with router(tmp_path, mixed=[dying, other]) as r:
        while not dying.bodies:
            other.bodies.clear()
            one = await told(r, {**BODY, **USAGE})
        assert one == await undisturbed(tmp_path, {**BODY, **USAGE})
        assert not other.bodies
        assert await r.metric(names.RESUMES) == 0


async def test_an_engine_that_is_told_to_stop_is_no_end_of_the_answer(tmp_path: Path) -> None:
    """vLLM ends what it aborts with finish_reason abort and [DONE]."""
    dying = TokenEngine("die", mode="abort", die_after=9)
    async with router(tmp_path, mixed=[dying, TokenEngine("good")]) as r:
        while not dying.bodies:
            one = await told(r, BODY)
        assert one == await undisturbed(tmp_path, BODY)


NOT_EXACT = {
    "n": {"n": 2},
    "logprobs": {"logprobs": 1},
    "presence_penalty": {"presence_penalty": 0.5},
    "response_format": {"response_format": {"type": "json_object"}},
    "seed": {"temperature": 1.0, "seed": 3},
    "other field": {"not_yet_known": True},
}


@pytest.mark.parametrize("why", NOT_EXACT)
async def test_where_it_would_not_be_exact_the_client_gets_an_error_event(
    tmp_path: Path, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="llmservice.router")
    engines = [TokenEngine(f"d{i}", mode="die", die_after=5) for i in range(2)]
    async with router(tmp_path, mixed=engines) as r:
        one = await told(r, {**BODY, **NOT_EXACT[why]})
        assert [e["code"] for e in one["errors"]] == [502]
        assert one["finish"] == []
        assert await r.metric(names.RESUMES, outcome=why) == await r.metric(names.RESUMES) == 1
        assert await r.metric(names.REQUESTS, outcome="failed", code="200") == 1
        assert sum(len(e.bodies) for e in engines) == 1
        assert "return_token_ids" not in next(e for e in engines if e.bodies).body, "no price where there is no use"
    assert json.loads(caplog.messages[0]).items() >= {"event": "not_resumed", "why": why}.items()


@pytest.mark.parametrize("how", [{"resume": "off"}, {"spec": {"router": {"resume": False}}}], ids=["flag", "resource"])
async def test_switched_off_nobody_is_asked_for_ids(tmp_path: Path, how: dict[str, Any]) -> None:
    dying = TokenEngine("die", mode="die", die_after=5)
    async with router(tmp_path, mixed=[dying], **how) as r:
        one = await told(r, BODY)
        assert len(one["errors"]) == 1
        assert "return_token_ids" not in dying.body
        assert await r.metric(names.RESUMES, outcome="off") == 1


async def test_an_engine_that_does_not_know_token_ids_of_a_chat_never_makes_a_wrong_answer(tmp_path: Path) -> None:
    engines = [TokenEngine("die", mode="die", die_after=5), TokenEngine("deaf", mode="deaf")]
    async with router(tmp_path, mixed=engines) as r:
        while not engines[0].bodies:
            one = await told(r, TALK, CHAT)
        right = await undisturbed(tmp_path, TALK, CHAT)
        assert len(one["errors"]) == 1
        assert one["text"]
        assert right["text"].startswith(one["text"])
        assert await r.metric(names.RESUMES, outcome="diverged") == 1


async def test_without_another_engine_it_waits_for_the_one_that_comes(tmp_path: Path) -> None:
    dying, late = TokenEngine("die", mode="die", die_after=5), TokenEngine("late", healthy=False)
    async with router(tmp_path, mixed=[dying, late], exclude_s=30, wait_for_endpoint_s=0.2) as r:
        asking = asyncio.create_task(told(r, BODY))
        await until(lambda: dying.bodies and len(r.shared.room))
        dying.healthy = False
        await asyncio.sleep(0.5)
        assert not asking.done(), "longer than a request waits that has nothing yet"
        late.healthy = True
        assert await asking == await undisturbed(tmp_path, BODY)


async def test_without_another_engine_it_ends_with_an_error_event_at_last(tmp_path: Path) -> None:
    dying = TokenEngine("die", mode="die", die_after=5)
    async with router(tmp_path, mixed=[dying], resume_wait_s=0.3) as r:
        asking = asyncio.create_task(told(r, BODY))
        await until(lambda: dying.bodies and len(r.shared.room))
        dying.healthy = False
        one = await asking
        assert "in the middle of the answer" in one["errors"][0]["message"]
        assert await r.metric(names.RESUMES, outcome="no engine") == 1
        assert await r.metric(names.SHED) == 0, "it was served, and failed"


async def test_a_whole_answer_is_just_asked_for_again(tmp_path: Path) -> None:
    bad, good = Engine("bad", mode="close"), Engine("good")
    async with router(tmp_path, prefill=[Engine("p")], decode=[bad, good]) as r:
        while not bad.bodies:
            async with r.post({**BODY, "stream": False}) as reply:
                assert (await reply.json())["choices"][0]["text"] == "good"
        assert await r.metric(names.RESUMES) == 0


async def test_a_client_that_leaves_while_its_stream_stands_still_is_gone(tmp_path: Path) -> None:
    dying = TokenEngine("die", mode="die", die_after=5)
    async with router(tmp_path, mixed=[dying], resume_wait_s=30) as r:
        reply = await r.post(BODY)
        await until(lambda: len(r.shared.room))
        dying.healthy = False
        reply.close()
        await until(lambda: not r.shared.running)
        assert await r.metric(names.REQUESTS, outcome="client_gone") == 1
        assert not len(r.shared.room)
