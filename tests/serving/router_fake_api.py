"""A small API server in this process that speaks list and watch, pods for it, and a router that finds all by it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from llmservice_core.contract import ANNOTATION_DRAIN
from llmservice_serving.router.settings import Settings
from tests.serving.router_fakes import MANIFEST, Engine, Router, started


def pod(name: str, pool: str = "mixed", *, ready: bool = True, ip: str | None = "127.0.0.1", **meta: Any) -> Any:
    labels = {
        "llmservice.dev/name": "chat",
        "llmservice.dev/component": "engine",
        "llmservice.dev/pool": pool,
        "llmservice.dev/revision": "r1",
    }
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    status = {"conditions": conditions, **({"podIP": ip} if ip else {})}
    return {"metadata": {"name": name, "labels": labels, **meta}, "status": status}


class FakeApi:
    """List and watch of pods and LLMServices in this process."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {"pods": {}, "llmservices": {"chat": MANIFEST}}
        self.version = 1
        self.watches: set[asyncio.Queue[Any]] = set()
        self.lists = 0
        self.down = False
        self.expire = False
        self.url = ""

    def put(self, kind: str, thing: Any, event: str = "MODIFIED") -> None:
        self.version += 1
        thing = json.loads(json.dumps(thing))
        thing["metadata"]["resourceVersion"] = str(self.version)
        self.objects[kind][thing["metadata"]["name"]] = thing
        if event == "DELETED":
            del self.objects[kind][thing["metadata"]["name"]]
        for queue in self.watches:
            queue.put_nowait((kind, {"type": event, "object": thing}))

    def cut(self) -> None:
        """All watches end, as when the API server restarts."""
        for queue in self.watches:
            queue.put_nowait(None)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.down:
            return web.json_response({"message": "down"}, status=503)
        kind = request.path.rpartition("/")[2]
        if "watch" in request.query:
            return await self._watch(request, kind)
        self.lists += 1
        items = list(self.objects[kind].values())
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        response, queue = web.StreamResponse(), asyncio.Queue[Any]()
        await response.prepare(request)
        if self.expire:
            self.expire = False
            gone = {"type": "ERROR", "object": {"code": 410, "message": "too old", "metadata": {}}}
            await response.write(json.dumps(gone).encode() + b"\n")
            return response
        self.watches.add(queue)
        try:
            while (item := await queue.get()) is not None:
                if item[0] == kind:
                    await response.write(json.dumps(item[1]).encode() + b"\n")
        finally:
            self.watches.discard(queue)
        return response


@asynccontextmanager
async def served(handler: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@asynccontextmanager
async def watched(tmp_path: Path, api: FakeApi, engine_port: int = 9) -> AsyncIterator[Router]:
    """A router that finds everything through the API."""
    async with served(api.answer) as url:
        config = {
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(config))
        async with started(in_cluster(path, engine_port)) as r:
            yield r


def in_cluster(kubeconfig: Path, engine_port: int) -> Settings:
    return Settings(
        service="default/chat",
        kubeconfig=str(kubeconfig),
        host="127.0.0.1",
        port=0,
        metrics_port=0,
        engine_port=engine_port,
        wait_for_endpoint_s=0.2,
    )


def states(r: Router) -> dict[str, str]:
    return {e.name: r.shared.fleet.state_of(e) for e in r.shared.fleet.snapshot()}


@asynccontextmanager
async def pods_with_engines(api: FakeApi, engines: dict[str, Engine]) -> AsyncIterator[int]:
    """Engines on 127.0.0.2, .3, ... and one port, as pods have their own addresses; a name begins with its pool."""
    async with AsyncExitStack() as stack:
        port = 0
        for i, (name, engine) in enumerate(engines.items()):
            address = f"127.0.0.{i + 2}"
            runner = web.AppRunner(engine.app(), handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, address, port).start()
            port = runner.addresses[0][1]
            api.put("pods", pod(name, name.split("-")[0], ip=address), "ADDED")
        yield port


def drained(name: str, address: str) -> Any:
    return pod(name, name.split("-")[0], ip=address, annotations={ANNOTATION_DRAIN: "now"})
