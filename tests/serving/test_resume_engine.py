"""Streams whose real vLLM engine is killed go on in another one, with the tokens of an undisturbed run; fp32, greedy.

Two prefill and three decode engines with the tiny model, paced, so that there is time to kill. Its weights are random,
so its answers are full of characters in pieces: the places where a text cannot be cut. The undisturbed run is one
engine alone. Killed are both parts of an engine, as a pod's end does it; the order of the tests is that of the deaths.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from e2e.engine import local
from llmservice_core import metric_names as names
from llmservice_serving.router.answer import PLAIN
from llmservice_serving.router.settings import Settings
from tests.serving.router_engines import ask, engine_metric, kill
from tests.serving.router_fakes import MANIFEST, Router, started, until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
PACE = "rtx4090-mistral-7b,scale=8"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
TOKENS = 100
USAGE = {"stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, list[local.Engine]]]:
    roles = ("prefill", "prefill", "decode", "decode", "decode")
    ports = iter(local.free_ports(3 * len(roles)))
    wanted = [
        local.Options(role=r, port=next(ports), metrics_port=next(ports), nixl_port=next(ports), pace=PACE)
        for r in roles
    ]
    with local.engines(*wanted) as all_of_them:
        yield {role: [e for e in all_of_them if e.options.role == role] for role in roles}


@asynccontextmanager
async def routed(engines: dict[str, list[local.Engine]], folder: Path) -> AsyncIterator[Router]:
    """A router in this process before the engines that are alive."""
    manifest = folder / "service.yaml"
    spec = {**MANIFEST["spec"], "model": {"name": "tiny", "servedName": "tiny"}}
    manifest.write_text(yaml.safe_dump({**MANIFEST, "spec": spec}))
    urls = {role: tuple(e.url for e in pool if e.process.poll() is None) for role, pool in engines.items()}
    local_only: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "metrics_port": 0}
    async with started(Settings(config=str(manifest), service="default/chat", **local_only, **urls)) as r:
        await until(lambda: r.shared.fleet.snapshot() and all(e.ready for e in r.shared.fleet.snapshot()), 10)
        yield r


@dataclass(kw_only=True)
class Seen:
    """One stream as its client saw it."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish: list[str] = field(default_factory=list)
    usages: list[dict[str, Any]] = field(default_factory=list)
    answer_ids: set[str] = field(default_factory=set)
    roles: int = 0
    prompts: int = 0
    done: int = 0
    errors: list[Any] = field(default_factory=list)
    chunks: int = 0
    counts: dict[str, Any] = field(default_factory=dict)
    """The last: some come with each chunk, and how many chunks there are is not promised."""

    def read(self, line: str) -> None:
        if line == "data: [DONE]":
            self.done += 1
            return
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            self.errors.append(event["error"])
            return
        self.chunks += 1
        self.answer_ids.add(event["id"])
        if usage := event.get("usage"):
            counts = {k: usage[k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")}
            assert not self.counts or counts["completion_tokens"] >= self.counts["completion_tokens"]
            self.counts = counts
            self.usages += [] if event["choices"] else [counts]
        self.prompts += bool(event.get("prompt_token_ids"))
        for choice in event["choices"]:
            delta = choice.get("delta", {})
            self.roles += "role" in delta
            self.text += choice.get("text") or delta.get("content") or ""
            self.ids += choice.get("token_ids") or []
            self.prompts += bool(choice.get("prompt_token_ids"))
            self.finish += [choice["finish_reason"]] if choice.get("finish_reason") else []

    @property
    def told(self) -> tuple[Any, ...]:
        """What must be the same whatever died."""
        return (
            (self.text, self.ids, self.finish, self.usages, self.counts),
            (self.roles, self.prompts, self.done, self.errors),
        )


async def stream(
    client: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any], seen: Seen | None = None
) -> Seen:
    seen = seen or Seen()
    async with client.post(url + path, json={**body, "stream": True}) as reply:
        assert reply.status == 200, await reply.text()
        while line := await reply.content.readline():
            if text := line.decode().strip():
                seen.read(text)
    return seen


def chat(words: str, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": words}]}
    return {**body, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True, **more}


def completion(tokens: int, **more: Any) -> dict[str, Any]:
    return ask(tokens, max_tokens=TOKENS, ignore_eos=True, **more)


def requests() -> list[tuple[str, dict[str, Any]]]:
    """Chats and completions, with and without ids and usage, lengths around a block of 32."""
    return [
        (COMPLETIONS, completion(31, return_token_ids=True, **USAGE)),
        (COMPLETIONS, completion(64, return_token_ids=True)),
        (COMPLETIONS, completion(300, **USAGE)),
        (COMPLETIONS, completion(40, stop=["no such text"])),
        (CHAT, chat("Where is the sea?", return_token_ids=True, **USAGE)),
        (CHAT, chat("And the wind?", stop=["§§§§§§§§"], min_tokens=60, **USAGE)),
        (CHAT, chat("Ü" * 30, repetition_penalty=1.3, logit_bias={"7": 1})),
        (COMPLETIONS, completion(33, stream_options={"include_usage": True, "continuous_usage_stats": True})),
    ]


def alone(engines: dict[str, list[local.Engine]]) -> str:
    return next(e.url for e in engines["prefill"] if e.process.poll() is None)


def alive(engines: dict[str, list[local.Engine]], role: str) -> list[local.Engine]:
    return [e for e in engines[role] if e.process.poll() is None]


@pytest.mark.parametrize("number", [0, 4], ids=["completion", "chat"])
async def test_nearly_all_events_of_an_engine_have_the_plain_shape(
    engines: dict[str, list[local.Engine]], number: int
) -> None:
    """Those that the router need not read as JSON. Not: the first, the last, the usage, and where a busy machine put
    two tokens in one."""
    path, body = requests()[number]
    url = alone(engines) + path
    async with aiohttp.ClientSession() as client, client.post(url, json={**body, "stream": True}) as reply:
        sent = [e for e in (await reply.read()).split(b"\n\n") if e]
    assert len(sent) > TOKENS / 2
    assert sum(PLAIN.fullmatch(e) is not None for e in sent) >= 0.8 * len(sent)


async def test_a_prefill_engine_killed_before_the_pull_costs_time_and_no_token(
    engines: dict[str, list[local.Engine]], tmp_path: Path
) -> None:
    """The decode engines stand still until the prompt's engine is dead: its blocks can never be pulled, and the engine
    that wanted them computes the prompt itself (`kv_load_failure_policy: recompute`)."""
    path, body = COMPLETIONS, completion(300, return_token_ids=True)
    computed = {"name": "vllm:prompt_tokens_by_source_total", "source": "local_compute"}
    async with routed(engines, tmp_path) as r:
        other = await stream(r.client, engines["prefill"][1].url, path, body)
        before = sum(engine_metric(e, **computed) for e in engines["decode"])
        prompts = {e.url: engine_metric(e, "vllm:prompt_tokens_total") for e in engines["prefill"]}
        with ExitStack() as standing:
            for e in engines["decode"]:
                standing.enter_context(local.stopped(local.core_pid(e)))
            asking = asyncio.create_task(stream(r.client, r.url, path, body))
            await until(lambda: r.shared.running, 10)
            await until(lambda: not any(e.in_flight and e.pool == "prefill" for e in r.shared.fleet.snapshot()), 30)
            await asyncio.sleep(0.3)
            kill(next(e for e in engines["prefill"] if engine_metric(e, "vllm:prompt_tokens_total") > prompts[e.url]))
        seen = await asking
        assert seen.told == other.told
        assert await r.metric(names.REQUESTS, outcome="ok") == 1
        assert await r.metric(names.RETRIES) == 0
    assert sum(engine_metric(e, **computed) for e in engines["decode"]) - before >= 300


async def test_a_decode_engine_killed_in_the_middle_of_streams_changes_no_token(
    engines: dict[str, list[local.Engine]], tmp_path: Path
) -> None:
    await one_decode_engine_ends(engines, tmp_path, kill)


async def test_a_decode_engine_told_to_stop_at_once_changes_no_token(
    engines: dict[str, list[local.Engine]], tmp_path: Path
) -> None:
    """SIGTERM without a time to finish, as vLLM has it by default: it ends what it has as aborted."""
    await one_decode_engine_ends(engines, tmp_path, lambda e: os.kill(e.pid, signal.SIGTERM))


async def one_decode_engine_ends(
    engines: dict[str, list[local.Engine]], folder: Path, end: Callable[[local.Engine], None]
) -> None:
    """In the middle of eight streams, two or more of them its own."""
    wanted = requests()
    async with routed(engines, folder) as r:
        undisturbed = [await stream(r.client, alone(engines), path, body) for path, body in wanted]
        running = [Seen() for _ in wanted]
        asking = [
            asyncio.create_task(stream(r.client, r.url, path, body, seen))
            for (path, body), seen in zip(wanted, running, strict=True)
        ]
        await until(lambda: all(s.chunks >= 20 for s in running), 60)
        held = {e.url: e.in_flight for e in r.shared.fleet.snapshot() if e.pool == "decode"}
        dead = alive(engines, "decode")[0]
        end(dead)
        routed_ones = await asyncio.gather(*asking)
        for one, seen in zip(undisturbed, routed_ones, strict=True):
            assert seen.told == one.told
            assert len(seen.answer_ids) == 1
        assert len({s.text for s in routed_ones}) == len(wanted), "answers that are all alike would prove nothing"
        assert min(held.values()) > 1, f"streams on all engines: {held}"
        assert await r.metric(names.RESUMES, outcome="resumed") == held[dead.url]
        assert await r.metric(names.REQUESTS, outcome="ok") == len(wanted)
        assert await r.metric(names.OUTPUT_TOKENS) == TOKENS * len(wanted)
    dead.process.wait(30)
