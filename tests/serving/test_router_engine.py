"""The router before real vLLM engines: same tokens as one engine, KV really moved, dead engines and gone clients.

Two prefill and two decode engines with the tiny model in fp32, paced, so that there is time to kill and to leave; pace
changes no token. What "one engine" answers is asked of a prefill engine directly: it computes prompt and answer, and
its blocks in the cache say nothing about the decode engines. The last tests kill engines, one of each pool.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from e2e.engine import local
from llmservice_core import metric_names as names
from llmservice_core.contract import ENV_SERVICE
from llmservice_serving.router.settings import Settings
from tests.serving.router_engines import answers, ask, at_work, busy, engine_metric, finished, kill, prompt, text_of
from tests.serving.router_fakes import MANIFEST, Router, started, until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
PACE = "rtx4090-mistral-7b,scale=8"
LONG: dict[str, Any] = {"stream": True, "extra_body": {"ignore_eos": True}}
BY_SOURCE = "vllm:prompt_tokens_by_source_total"


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, list[local.Engine]]]:
    roles = ("prefill", "prefill", "decode", "decode")
    ports = iter(local.free_ports(3 * len(roles)))
    wanted = [
        local.Options(
            role=role,
            port=next(ports),
            metrics_port=next(ports),
            nixl_port=next(ports),
            pace=PACE,
            args=("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        )
        for role in roles
    ]
    with local.engines(*wanted) as all_of_them:
        yield {role: [e for e in all_of_them if e.options.role == role] for role in roles}


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    path = tmp_path / "service.yaml"
    spec = {**MANIFEST["spec"], "model": {"name": "tiny", "servedName": "tiny"}}
    path.write_text(yaml.safe_dump({**MANIFEST, "spec": spec}))
    return str(path)


@asynccontextmanager
async def routed(engines: dict[str, list[local.Engine]], manifest: str) -> AsyncIterator[Router]:
    """A router in this process before the engines that are alive."""
    alive = {role: tuple(e.url for e in pool if e.process.poll() is None) for role, pool in engines.items()}
    settings = Settings(
        config=manifest,
        service="default/chat",
        host="127.0.0.1",
        port=0,
        metrics_port=0,
        prefill=alive["prefill"],
        decode=alive["decode"],
    )
    async with started(settings) as r:
        await until(lambda: r.shared.fleet.snapshot() and all(e.ready for e in r.shared.fleet.snapshot()), 10)
        yield r


def pulled_tokens(decode: list[local.Engine]) -> float:
    return sum(engine_metric(e, BY_SOURCE, source="external_kv_transfer") for e in decode)


def alone(engines: dict[str, list[local.Engine]]) -> str:
    """The URL of one engine that answers by itself."""
    return next(e.url for e in engines["prefill"] if e.process.poll() is None)


async def test_the_same_tokens_as_one_engine_and_the_kv_was_moved(
    engines: dict[str, list[local.Engine]], manifest: str
) -> None:
    """Prompts below, at and above a whole number of blocks (32), streamed and not, all at once."""
    lengths = (1, 31, 32, 33, 300, 319, 320, 321, 512, 700) * 2
    bodies = [ask(n, stream=i % 2 == 0, ignore_eos=True) for i, n in enumerate(lengths)]
    sources = ("external_kv_transfer", "local_compute", "local_cache_hit")
    before = {s: sum(engine_metric(d, BY_SOURCE, source=s) for d in engines["decode"]) for s in sources}
    async with routed(engines, manifest) as r:
        split = await asyncio.gather(*(text_of(r.url, r.client, b) for b in bodies))
        single = await asyncio.gather(*(text_of(alone(engines), r.client, b) for b in bodies))
        assert await r.metric(names.PROMPT_TOKENS) == sum(len(b["prompt"]) for b in bodies)
        assert await r.metric(names.OUTPUT_TOKENS) == 12 * len(bodies)
        assert await r.metric(names.RETRIES) == 0
        assert await r.metric(names.SLO_EVENTS) == len(bodies) / 2
    assert split == single
    assert len(set(split)) == len(split), "outputs that do not depend on the prompt would prove nothing"
    moved = {s: sum(engine_metric(d, BY_SOURCE, source=s) for d in engines["decode"]) - before[s] for s in sources}
    # The last prompt token is computed again where the answer is made, so a prompt of one token needs no transfer.
    assert moved["external_kv_transfer"] == sum(n for n in lengths if n > 1)
    assert moved["local_compute"] == sum(n for n in lengths if n == 1)
    assert all(engine_metric(d, "vllm:nixl_num_failed_transfers_total") == 0 for d in engines["decode"])


async def test_chat_and_completions_with_the_stock_client(
    engines: dict[str, list[local.Engine]], manifest: str
) -> None:
    chat: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Where is the sea?"}]}
    chat |= {"max_tokens": 12, "temperature": 0}
    async with routed(engines, manifest) as r:
        answers = []
        for base in (r.url, alone(engines)):
            client = openai.AsyncOpenAI(base_url=base + "/v1", api_key="none", max_retries=0)
            assert [m.id for m in (await client.models.list()).data] == ["tiny"]
            whole = await client.chat.completions.create(**chat)
            stream = await client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True})
            chunks = [c async for c in stream]
            assert chunks[-1].usage == whole.usage
            answers.append((whole.choices[0].message.content, text_of_chunks(chunks), whole.usage.completion_tokens))
            await client.close()
    assert answers[0] == answers[1]
    assert answers[0][0] == answers[0][1]


def text_of_chunks(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


async def test_requests_that_cannot_be_split_run_on_a_decode_engine(
    engines: dict[str, list[local.Engine]], manifest: str
) -> None:
    several = {"model": "tiny", "prompt": [prompt(40), prompt(50)], "max_tokens": 4, "temperature": 0}
    cases = [several, ask(40, n=2) | {"temperature": 1.0}, ask(40, echo=True)]
    prefilled = sum(engine_metric(p, "vllm:prompt_tokens_total") for p in engines["prefill"])
    async with routed(engines, manifest) as r:
        for body, choices in zip(cases, (2, 2, 1), strict=True):
            async with r.post(body) as reply:
                assert reply.status == 200, await reply.text()
                assert len((await reply.json())["choices"]) == choices
    assert sum(engine_metric(p, "vllm:prompt_tokens_total") for p in engines["prefill"]) == prefilled


async def test_a_forced_tool_call_survives_a_prefill_of_one_token(
    engines: dict[str, list[local.Engine]], manifest: str
) -> None:
    """The prefill engine must not fail because its single token is no whole tool call."""
    function = {"name": "look", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 120, "temperature": 0}
    body |= {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    pulled = pulled_tokens(engines["decode"])
    async with routed(engines, manifest) as r:
        calls = []
        for url in (alone(engines), r.url):
            async with r.client.post(f"{url}/v1/chat/completions", json=body) as reply:
                assert reply.status == 200, await reply.text()
                answer = await reply.json()
            (call,) = answer["choices"][0]["message"]["tool_calls"]
            calls.append((call["function"], answer["usage"]["completion_tokens"]))
        assert calls[0] == calls[1]
        assert await r.metric(names.RETRIES) == 0
    assert pulled_tokens(engines["decode"]) > pulled, "it went through both steps"


async def test_a_client_that_names_a_kv_host_gets_its_own_answer_and_kills_nothing(
    engines: dict[str, list[local.Engine]], manifest: str
) -> None:
    body = ask(64)
    theft = {"do_remote_prefill": True, "remote_engine_id": "x", "remote_block_ids": [[1]], "remote_request_id": "y"}
    theft |= {"remote_host": "127.0.0.1", "remote_port": engines["prefill"][0].options.nixl_port, "tp_size": 1}
    async with routed(engines, manifest) as r:
        for more in ({}, {"n": 1, "echo": True}):
            honest = await text_of(alone(engines), r.client, {**body, **more})
            assert await text_of(r.url, r.client, {**body, **more, "kv_transfer_params": theft}) == honest
    assert all(e.process.poll() is None for pool in engines.values() for e in pool)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_a_client_that_leaves_is_aborted_in_the_engine(
    engines: dict[str, list[local.Engine]], manifest: str, phase: str
) -> None:
    """A decode of 1,900 tokens would take 40 s, a prefill of 1,900 over a second: both are gone at once."""
    pool, before = engines[phase], finished(engines[phase])
    body = ask(1900 if phase == "prefill" else 40, max_tokens=100 if phase == "prefill" else 1900)
    body |= {"stream": True, "ignore_eos": True}
    async with routed(engines, manifest) as r:
        asking = asyncio.create_task(r.post(body).__aenter__())
        await until(lambda: at_work(pool) == 1)
        if phase == "decode":
            (await asking).close()
        asking.cancel()
        left_s = time.monotonic()
        await until(lambda: at_work(pool) == 0)
        print(f"aborted in {phase} {time.monotonic() - left_s:.2f} s after the client left")
        await until(lambda: not r.shared.running)
        assert await r.metric(names.REQUESTS, outcome="client_gone") == 1
    assert finished(pool) == before


async def test_the_process_as_a_user_starts_it(engines: dict[str, list[local.Engine]], manifest: str) -> None:
    port, metrics_port = local.free_ports(2)
    urls = [f"--{role}={e.url}" for role in ("prefill", "decode") for e in engines[role]]
    flags = ["--config", manifest, "--host", "127.0.0.1", "--port", str(port), "--metrics-port", str(metrics_port)]
    command = [sys.executable, "-m", "llmservice_serving.router", *flags, "--drain-delay-s", "0.5", *urls]
    process = subprocess.Popen(command, env={**os.environ, ENV_SERVICE: "default/chat"})  # noqa: ASYNC220
    try:
        await until(lambda: answers(f"http://127.0.0.1:{metrics_port}/readyz"), 10)
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        strict = {"x-llmservice-class": "interactive"}
        stream = await client.completions.create(**ask(40, max_tokens=200), **LONG, extra_headers=strict)
        chunks = [await anext(aiter(stream))]
        gone = await client.completions.create(**ask(40, max_tokens=1900), **LONG)
        await anext(aiter(gone))
        assert at_work(engines["decode"]) == 2
        await gone.close()
        await until(lambda: at_work(engines["decode"]) == 1)
        process.send_signal(signal.SIGTERM)
        chunks += [c async for c in stream]
        assert chunks[-1].choices[0].finish_reason == "length"
        await until(lambda: process.poll() is not None, 10)
        assert process.returncode == 0
        await client.close()
    finally:
        process.kill()
        process.wait()


async def test_a_prefill_engine_killed_at_work_is_replaced(
    engines: dict[str, list[local.Engine]], manifest: str
) -> None:
    body = ask(1900, stream=True)
    async with routed(engines, manifest) as r:
        asking = asyncio.create_task(text_of(r.url, r.client, body))
        await until(lambda: any(e.in_flight and e.pool == "prefill" for e in r.shared.fleet.snapshot()), 5)
        await asyncio.sleep(0.3)
        assert not asking.done()
        kill(busy(r, engines["prefill"]))
        assert await asking == await text_of(alone(engines), r.client, body)
        assert await r.metric(names.RETRIES, phase="prefill", reason="disconnect") == 1
        assert await r.metric(names.REQUESTS, outcome="ok") == 1


async def test_a_decode_engine_killed_in_a_stream_ends_it_with_an_error_event_and_others_go_on(
    engines: dict[str, list[local.Engine]], manifest: str
) -> None:
    """With log probabilities: such a stream is not resumed (those that are: test_resume_engine.py)."""
    async with routed(engines, manifest) as r:
        body = {"max_tokens": 300, "stream": True, "ignore_eos": True, "logprobs": 1}
        streams = [await r.post(ask(40, **body)) for _ in range(2)]
        firsts = [await s.content.readuntil(b"\n\n") for s in streams]
        assert all(firsts)
        kill(engines["decode"][0])
        ends = [(await s.text()).strip().split("\n\n")[-1] for s in streams]
        assert sorted("error" in end for end in ends) == [False, True]
        assert sorted(end == "data: [DONE]" for end in ends) == [False, True]
        body = ask(300)
        assert await text_of(r.url, r.client, body) == await text_of(alone(engines), r.client, body)
        assert await r.metric(names.REQUESTS, outcome="failed") == 1
