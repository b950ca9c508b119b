"""A fake engine that answers one request at a time, when it is told to, or in the time that its prompt takes."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from llmservice_core.contract import HEADER_CLASS
from tests.serving.router_fakes import JSON, MANIFEST, Engine, Router, until
from tests.serving.router_keys import bearer

STRICT, RELAXED = "interactive", "batch"


@dataclass
class Gated(Engine):
    """Each answer waits for `let_through`; with `token_s` for its prompt's time instead, one after the other."""

    token_s: float | None = None
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def _answer(self, request: web.Request, body: JSON) -> web.StreamResponse:
        if self.token_s is None:
            await self.gate.acquire()
        else:
            async with self.turn:
                await asyncio.sleep(self.token_s * len(body["prompt"]))
        return await super()._answer(request, body)

    def let_through(self, requests: int = 1) -> None:
        for _ in range(requests):
            self.gate.release()

    @property
    def sizes(self) -> list[int]:
        """Prompts in the order in which they came."""
        return [len(body["prompt"]) for body in self.bodies]


def classes(*, shed: Iterable[str] = (), **targets: str) -> JSON:
    """A spec with the classes of MANIFEST, some of which refuse late requests, some with other TTFT targets."""
    changed = []
    for c in MANIFEST["spec"]["classes"]:
        target = {**c["ttft"], "target": targets.get(c["name"], c["ttft"]["target"])}
        changed.append({**c, "ttft": target, "shed": "Late" if c["name"] in shed else "Never"})
    return {"classes": changed}


def ask(tokens: int, **more: Any) -> JSON:
    return {"model": "chat", "prompt": [7] * tokens, "max_tokens": 5, "stream": True, **more}


def sent(r: Router, tokens: int, c: str = STRICT, key: str = "", **more: Any) -> asyncio.Task[aiohttp.ClientResponse]:
    """A request on its way; its answer has been read when the task is done."""

    async def run() -> aiohttp.ClientResponse:
        headers = {HEADER_CLASS: c, **(bearer(key) if key else {})}
        reply: aiohttp.ClientResponse = await r.post(ask(tokens, **more), headers=headers)
        await reply.read()
        return reply

    return asyncio.create_task(run())


async def sent_in_order(r: Router, *requests: tuple[int, str] | tuple[int, str, str]) -> list[asyncio.Task[Any]]:
    """One after the other, each in the router's queue before the next is sent."""
    tasks = []
    for request in requests:
        before = len(r.shared.room)
        tasks.append(sent(r, *request))
        await until(lambda before=before: len(r.shared.room) > before)
    return tasks


async def occupied(r: Router, engine: Gated, tokens: int = 100, key: str = "") -> asyncio.Task[aiohttp.ClientResponse]:
    """The engine has all that it may hold: what comes now waits."""
    first = sent(r, tokens, key=key)
    await until(lambda: engine.bodies)
    return first
