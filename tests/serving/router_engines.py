"""What tests with real engines share: prompts, an engine's own numbers, its death."""

import os
import random
import signal
from contextlib import suppress
from typing import Any
from urllib.request import urlopen

import aiohttp

from e2e.engine import local
from tests.serving.router_fakes import Router, events

RANDOM = random.Random(5)


def prompt(tokens: int) -> list[int]:
    return [RANDOM.randrange(4, 1024) for _ in range(tokens)]


def ask(tokens: int, *, max_tokens: int = 12, **more: Any) -> dict[str, Any]:
    """The model's weights are random: without ignore_eos one answer in eighty ends early."""
    return {"model": "tiny", "prompt": prompt(tokens), "max_tokens": max_tokens, "temperature": 0, **more}


def engine_metric(engine: local.Engine, name: str, **labels: str) -> float:
    with urlopen(f"{engine.url}/metrics", timeout=5) as reply:
        lines = [line for line in reply.read().decode().splitlines() if line.startswith(name + "{")]
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(w in line for w in wanted))


def at_work(engines: list[local.Engine]) -> float:
    """Requests that the engines have, running or waiting."""
    return sum(engine_metric(e, f"vllm:num_requests_{state}") for e in engines for state in ("running", "waiting"))


def finished(engines: list[local.Engine]) -> float:
    """Requests that ended by themselves; vLLM does not count those that were aborted."""
    return sum(engine_metric(e, "vllm:request_success_total") for e in engines)


async def text_of(url: str, client: aiohttp.ClientSession, body: dict[str, Any]) -> str:
    async with client.post(f"{url}/v1/completions", json=body) as reply:
        assert reply.status == 200, await reply.text()
        if body.get("stream"):
            return "".join(e["choices"][0]["text"] for e in await events(reply))
        text: str = (await reply.json())["choices"][0]["text"]
        return text


def busy(r: Router, pool: list[local.Engine]) -> local.Engine:
    """The engine of a pool that has the request now."""
    urls = {e.url for e in r.shared.fleet.snapshot() if e.in_flight}
    return next(e for e in pool if e.url in urls)


def kill(engine: local.Engine) -> None:
    """kill -9 of the server and its EngineCore, whichever is left."""
    with suppress(ProcessLookupError):
        os.killpg(engine.pid, signal.SIGKILL)
    engine.process.wait()


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=1) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
