"""One request through a real router to fake engines: two steps, one step, classes, refusals, what never passes."""

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.serving.router_fakes import KV, Engine, events, router

STEAL = {"kv_transfer_params": {"do_remote_prefill": True, "remote_host": "10.6.6.6", "remote_block_ids": [1]}}
ASK = {"model": "chat", "prompt": "hello", "max_tokens": 5}


async def test_two_steps_without_a_stream(tmp_path: Path) -> None:
    p, d = Engine("p"), Engine("d")
    async with router(tmp_path, prefill=[p], decode=[d]) as r, r.post(ASK) as reply:
        answer = await reply.json()
        assert reply.status == 200
    assert (p.body["max_tokens"], p.body["max_completion_tokens"]) == (1, 1)
    assert d.body["max_tokens"] == 5
    assert d.body["kv_transfer_params"] == {**KV, "remote_request_id": "r-1"}
    assert answer["choices"][0]["text"] == "d"
    assert "kv_transfer_params" not in answer


async def test_two_steps_streaming(tmp_path: Path) -> None:
    p, d = Engine("p"), Engine("d")
    async with router(tmp_path, prefill=[p], decode=[d]) as r, r.post({**ASK, "stream": True}) as reply:
        got = await events(reply)
        assert reply.headers["Content-Type"].startswith("text/event-stream")
    assert [e["choices"][0]["text"] for e in got] == ["d0 ", "d1 ", "d2 ", "d3 "]
    assert "stream" not in p.body
    assert d.body["stream_options"] == {"include_usage": True}


async def test_usage_chunk_only_for_those_who_ask(tmp_path: Path) -> None:
    asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    async with router(tmp_path, mixed=[Engine("m")]) as r, r.post(asked) as reply:
        got = await events(reply)
    assert got[-1]["usage"]["completion_tokens"] == 4


async def test_a_mixed_pool_needs_one_step(tmp_path: Path) -> None:
    m = Engine("m")
    async with router(tmp_path, mixed=[m]) as r, r.post(ASK) as reply:
        assert reply.status == 200
    assert len(m.bodies) == 1
    assert "kv_transfer_params" not in m.body


ONE_STEP: dict[str, dict[str, Any]] = {
    "list of prompts": {"prompt": ["a", "b"]},
    "n": {"n": 2},
    "best_of": {"best_of": 2},
    "echo": {"echo": True},
    "prompt_logprobs": {"prompt_logprobs": 1},
    "beam search": {"use_beam_search": True},
}


@pytest.mark.parametrize("change", ONE_STEP.values(), ids=ONE_STEP.keys())
async def test_what_cannot_be_split_is_computed_by_the_decode_engine_alone(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    p, d = Engine("p"), Engine("d")
    async with router(tmp_path, prefill=[p], decode=[d]) as r, r.post({**ASK, **change}) as reply:
        assert reply.status == 200
    assert p.bodies == []
    assert "kv_transfer_params" not in d.body
    assert d.body.items() >= change.items()


async def test_what_cannot_be_split_prefers_mixed_engines(tmp_path: Path) -> None:
    p, d, m = Engine("p"), Engine("d"), Engine("m")
    async with router(tmp_path, prefill=[p], decode=[d], mixed=[m]) as r, r.post({**ASK, "n": 2}) as reply:
        assert reply.status == 200
    assert (len(p.bodies), len(d.bodies), len(m.bodies)) == (0, 0, 1)


async def test_a_prefill_without_kv_is_computed_again(tmp_path: Path) -> None:
    """vLLM gives no parameters when the very first token ends the answer."""
    p, d = Engine("p", mode="no_kv"), Engine("d")
    async with router(tmp_path, prefill=[p], decode=[d]) as r, r.post(ASK) as reply:
        assert reply.status == 200
    assert "kv_transfer_params" not in d.body


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_cannot_steal_another_host_s_kv(tmp_path: Path, stream: bool) -> None:
    p, d, m = Engine("p"), Engine("d"), Engine("m")
    attack = {**ASK, **STEAL, "stream": stream, "vllm_xargs": {"class": "interactive", "ttft_s": 0.001}}
    attack |= {"priority": -100, "cache_salt": "x", "request_id": "victim", "ec_transfer_params": {"host": "10.6.6.6"}}
    async with router(tmp_path, prefill=[p], decode=[d], mixed=[m]) as r:
        for body in (attack, {**attack, "n": 2}):
            async with r.post(body) as reply:
                assert reply.status == 200
                assert "10.6.6.6" not in await reply.text()
    for body in (*p.bodies, *d.bodies, *m.bodies):
        assert "10.6.6.6" not in str(body)
        assert not {"priority", "cache_salt", "request_id", "ec_transfer_params"} & body.keys()
        assert body["vllm_xargs"]["class"] == "batch"
        assert body["vllm_xargs"]["ttft_s"] == 30


async def test_the_class_comes_from_the_header(tmp_path: Path) -> None:
    m = Engine("m")
    async with router(tmp_path, mixed=[m]) as r:
        async with r.post(ASK, headers={"x-llmservice-class": "interactive"}) as reply:
            assert reply.status == 200
        async with r.post(ASK, headers={"x-llmservice-class": "gold"}) as reply:
            refused = await reply.json()
            assert reply.status == 400
    assert m.body["vllm_xargs"].items() >= {"class": "interactive", "ttft_s": 0.5, "tbt_s": 0.05}.items()
    assert "interactive, batch" in refused["error"]["message"]
    assert len(m.bodies) == 1


async def test_an_engine_s_refusal_is_passed_through(tmp_path: Path) -> None:
    p, d = Engine("p", mode="refuse"), Engine("d")
    async with router(tmp_path, prefill=[p], decode=[d]) as r, r.post({**ASK, "stream": True}) as reply:
        assert reply.status == 400
        assert (await reply.json())["error"]["message"] == "prompt too long"
        assert await r.metric("llmservice_router_requests_total", outcome="refused", code="400") == 1
        assert await r.metric("llmservice_slo_events_total") == 0
    assert len(p.bodies) == 1
    assert d.bodies == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/responses"),
        ("GET", "/"),
        ("GET", "/v1/completions"),
        ("GET", "/metrics"),
    ],
)
async def test_other_paths_are_refused_in_openai_s_shape(tmp_path: Path, method: str, path: str) -> None:
    async with router(tmp_path, mixed=[Engine("m")]) as r, r.client.request(method, r.url + path) as reply:
        error = (await reply.json())["error"]
        assert reply.status in (404, 405)
    assert path in error["message"]
    assert "/v1/chat/completions" in error["message"]


async def test_a_body_over_the_limit_is_413(tmp_path: Path) -> None:
    m = Engine("m")
    async with router(tmp_path, mixed=[m], max_body_bytes=1000) as r, r.post({**ASK, "prompt": "x" * 2000}) as reply:
        assert reply.status == 413
        assert "1000 bytes" in (await reply.json())["error"]["message"]
    assert m.bodies == []


async def test_models_and_tokenize(tmp_path: Path) -> None:
    p = Engine("p")
    async with router(tmp_path, prefill=[p], decode=[Engine("d", healthy=False)]) as r:
        async with r.client.get(r.url + "/v1/models") as reply:
            assert (await reply.json())["data"][0]["max_model_len"] == 2048
        async with r.post({"prompt": "a", **STEAL}, path="/tokenize") as reply:
            assert (await reply.json())["count"] == 3
    assert "kv_transfer_params" not in p.body


async def test_models_are_known_while_no_engine_is_ready(tmp_path: Path) -> None:
    m = Engine("m", healthy=False)
    async with router(tmp_path, mixed=[m]) as r, r.client.get(r.url + "/v1/models") as reply:
        assert (await reply.json())["data"][0]["id"] == "chat"


async def test_the_stock_client_understands_answers_streams_and_errors(tmp_path: Path) -> None:
    async with router(tmp_path, prefill=[Engine("p")], decode=[Engine("d")]) as r:
        client = openai.AsyncOpenAI(base_url=r.url + "/v1", api_key="none", max_retries=0)
        whole = await client.completions.create(model="chat", prompt="a", max_tokens=4)
        assert whole.choices[0].text == "d"
        stream = await client.completions.create(model="chat", prompt="a", max_tokens=4, stream=True)
        assert "".join([c.choices[0].text async for c in stream]) == "d0 d1 d2 d3 "
        with pytest.raises(openai.BadRequestError, match="use one of"):
            await client.completions.create(model="chat", prompt="a", extra_headers={"x-llmservice-class": "x"})
        with pytest.raises(openai.NotFoundError, match="does not answer"):
            await client.embeddings.create(model="chat", input="a")
        await client.close()


async def test_the_shortest_queue_gets_the_next_request(tmp_path: Path) -> None:
    engines = [Engine(f"m{i}", gap_s=0.3) for i in range(3)]
    async with router(tmp_path, mixed=engines) as r:
        replies = [await r.post({**ASK, "stream": True}) for _ in range(6)]
        assert [len(e.bodies) for e in engines] == [2, 2, 2]
        for reply in replies:
            reply.close()
