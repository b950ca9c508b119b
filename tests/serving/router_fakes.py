"""Small in-process engines that speak vLLM's protocol, and a real router in front of them. For error paths and rules.

They say nothing about vLLM itself: that the protocol is right is shown by the tests with real engines.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from llmservice_serving.router import app as router_app
from llmservice_serving.router.settings import Settings
from llmservice_serving.router.state import Shared

JSON = dict[str, Any]
MANIFEST: JSON = {
    "apiVersion": "llmservice.dev/v1alpha1",
    "kind": "LLMService",
    "metadata": {"name": "chat", "namespace": "default"},
    "spec": {
        "model": {"name": "org/model", "servedName": "chat"},
        "classes": [
            {
                "name": "interactive",
                "ttft": {"target": "500ms", "percentile": 95},
                "tbt": {"target": "50ms", "percentile": 99},
            },
            {
                "name": "batch",
                "default": True,
                "ttft": {"target": "30s", "percentile": 95},
                "tbt": {"target": "500ms", "percentile": 99},
            },
        ],
    },
}
KV = {"do_remote_prefill": True, "remote_engine_id": "e-1", "remote_block_ids": [[1, 2]], "remote_host": "10.0.0.9"}


@dataclass
class Engine:
    """`mode` says how it answers: ok, refuse, error, busy, close, cut, hang, stream_error, no_kv."""

    name: str
    mode: str = "ok"
    tokens: int = 4
    gap_s: float = 0.0
    url: str = ""
    bodies: list[JSON] = field(default_factory=list)
    closed: int = 0
    """Requests whose connection went away before their answer was complete."""
    healthy: bool = True

    @property
    def body(self) -> JSON:
        return self.bodies[-1]

    def app(self) -> web.Application:
        made = web.Application(client_max_size=1 << 26)
        posts = [web.post(path, self.answer) for path in ("/v1/completions", "/v1/chat/completions")]
        made.add_routes([*posts, web.post("/tokenize", self.tokenize), web.get("/health", self.health)])
        made.add_routes([web.get("/v1/models", self.models)])
        return made

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "chat", "max_model_len": 2048}]})

    async def tokenize(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        return web.json_response({"count": 3, "tokens": [1, 2, 3]})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        try:
            return await self._answer(request, body)
        except asyncio.CancelledError:
            self.closed += 1
            raise
        except ConnectionError:
            self.closed += 1
            return web.Response()

    async def _answer(self, request: web.Request, body: JSON) -> web.StreamResponse:
        if self.mode == "refuse":
            error = {"message": "prompt too long", "type": "BadRequestError", "param": "prompt", "code": 400}
            return web.json_response({"error": error}, status=400)
        if self.mode == "error":
            return web.json_response({"error": {"message": "boom"}}, status=500)
        if self.mode == "busy":
            return web.Response(status=503)
        if self.mode == "close":
            drop(request)
            return web.Response()
        if self.mode == "hang":
            await asyncio.sleep(60)
        if body.get("stream"):
            return await self._stream(request, body)
        await asyncio.sleep(self.gap_s)
        return web.json_response(self._whole(body))

    def _whole(self, body: JSON) -> JSON:
        is_prefill = bool((body.get("kv_transfer_params") or {}).get("do_remote_decode"))
        kv = {**KV, "remote_request_id": f"r-{len(self.bodies)}"} if is_prefill and self.mode != "no_kv" else None
        return {
            "id": "x",
            "object": "text_completion",
            "created": 1,
            "model": "chat",
            "choices": [{"index": 0, "text": self.name, "finish_reason": "stop"}],
            "usage": usage(self.tokens),
            "kv_transfer_params": kv,
        }

    async def _stream(self, request: web.Request, body: JSON) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if self.mode == "stream_error":
            await response.write(event({"error": {"message": "engine died", "code": 500}}))
        for i in range(self.tokens):
            if self.mode == "cut" and i == 2:
                drop(request)
                return response
            choice = {"index": 0, "text": f"{self.name}{i} ", "finish_reason": None}
            await response.write(event({"id": "x", "object": "text_completion", "choices": [choice]}))
            await asyncio.sleep(self.gap_s)
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(event({"id": "x", "choices": [], "usage": usage(self.tokens)}))
        await response.write(b"data: [DONE]\n\n")
        return response


def usage(tokens: int) -> JSON:
    return {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}


def event(data: JSON) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def drop(request: web.Request) -> None:
    """As if the process died: the socket closes without an end of the answer."""
    assert request.transport is not None
    request.transport.abort()


@dataclass(kw_only=True)
class Router:
    """A running router and a client for it."""

    shared: Shared
    doors: router_app.Doors
    url: str
    admin: str
    client: aiohttp.ClientSession

    def post(self, body: JSON, path: str = "/v1/completions", **kw: Any) -> Any:
        return self.client.post(self.url + path, json=body, **kw)

    async def metrics(self) -> dict[str, float]:
        """Series with their labels in order of the exposition: `name{a="b"}` -> value."""
        async with self.client.get(self.admin + "/metrics") as reply:
            lines = (await reply.text()).splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {series: float(value) for series, _, value in pairs}

    async def metric(self, name: str, **labels: str) -> float:
        """The sum over all series of `name` that carry these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = await self.metrics()
        return sum(v for s, v in found.items() if s.split("{")[0] == name and all(w in s for w in wanted))


@asynccontextmanager
async def running(engines: Iterable[Engine]) -> AsyncIterator[None]:
    """The engines listen on free ports of 127.0.0.1."""
    async with AsyncExitStack() as stack:
        for engine in engines:
            runner = web.AppRunner(engine.app(), handler_cancellation=True, shutdown_timeout=0.2)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            engine.url = f"http://127.0.0.1:{port_of(runner)}"
        yield


def port_of(runner: web.AppRunner) -> int:
    return int(runner.addresses[0][1])


@asynccontextmanager
async def router(
    tmp_path: Path,
    *,
    prefill: Iterable[Engine] = (),
    decode: Iterable[Engine] = (),
    mixed: Iterable[Engine] = (),
    wait_for: int | None = None,
    spec: JSON | None = None,
    **settings: Any,
) -> AsyncIterator[Router]:
    """`spec` replaces parts of MANIFEST's.

    A router with static URLs, as `python -m llmservice_serving.router --config FILE --prefill URL ...` is."""
    pools = {"prefill": list(prefill), "decode": list(decode), "mixed": list(mixed)}
    engines = [e for pool in pools.values() for e in pool]
    manifest = tmp_path / "service.yaml"
    manifest.write_text(yaml.safe_dump({**MANIFEST, "spec": {**MANIFEST["spec"], **(spec or {})}}))
    async with running(engines):
        urls = {name: tuple(e.url for e in pool) or ("http://127.0.0.1:9",) for name, pool in pools.items()}
        given = {name: urls[name] for name, pool in pools.items() if pool} or {"mixed": urls["mixed"]}
        async with started(Settings(config=str(manifest), service="default/chat", **given, **_local(settings))) as r:
            await until(lambda: sum(e.ready for e in r.shared.fleet.snapshot()) >= _expected(wait_for, engines))
            yield r


def _expected(wait_for: int | None, engines: list[Engine]) -> int:
    return sum(e.healthy for e in engines) if wait_for is None else wait_for


def _local(settings: dict[str, Any]) -> dict[str, Any]:
    fast = {"host": "127.0.0.1", "port": 0, "metrics_port": 0, "wait_for_endpoint_s": 0.3, "exclude_s": 0.3}
    return {**fast, "drain_delay_s": 0.1, **settings}


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Router]:
    shared = router_app.make_shared(settings)
    async with router_app.serving(shared) as doors, aiohttp.ClientSession() as client:
        urls = [f"http://127.0.0.1:{port}" for port in (doors.api, doors.admin)]
        yield Router(shared=shared, doors=doors, url=urls[0], admin=urls[1], client=client)


async def until(condition: Any, timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def events(reply: aiohttp.ClientResponse) -> list[JSON]:
    """The data events of a stream, without [DONE]."""
    text = (await reply.read()).decode()
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
