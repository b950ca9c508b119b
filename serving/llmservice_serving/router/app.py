"""The router's life: wire everything, serve, and on SIGTERM leave without cutting what can still end.

The only place where objects are made and tasks started.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from llmservice_core.affinity import PrefixMemory
from llmservice_serving.router import admin, discovery, keys_dir, moving
from llmservice_serving.router.door import Door
from llmservice_serving.router.edge import EdgeRunner, Limits
from llmservice_serving.router.engines import Engines
from llmservice_serving.router.fleet import Fleet
from llmservice_serving.router.handlers import Handlers, openai_errors
from llmservice_serving.router.kube import Kube, find_access
from llmservice_serving.router.metrics import Metrics
from llmservice_serving.router.service_config import BadManifest, from_manifest
from llmservice_serving.router.settings import Settings
from llmservice_serving.router.state import Shared
from llmservice_serving.router.waiting_room import WaitingRoom

LOG = logging.getLogger("llmservice.router")
CUT_GRACE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where it listens; the ports differ from the settings when those say 0."""

    api: int
    admin: int
    site: web.TCPSite


def make_shared(settings: Settings) -> Shared:
    fleet, door = Fleet(exclude_s=settings.exclude_s), Door(has_keys=bool(settings.keys_dir))
    return Shared(
        settings=settings,
        fleet=fleet,
        engines=Engines(settings),
        metrics=Metrics(settings.service),
        door=door,
        room=WaitingRoom(
            fleet=fleet,
            wait_for_endpoint_s=settings.wait_for_endpoint_s,
            wait_for_start_s=settings.wait_for_start_s,
            queue_tokens=settings.queue_tokens,
            routers=lambda: door.routers,
            memory=PrefixMemory(settings.prefix_blocks),
        ),
    )


@asynccontextmanager
async def serving(shared: Shared) -> AsyncIterator[Doors]:
    """Both ports listen and discovery runs inside the block; afterwards nothing of it is left."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(shared.engines.close)
        for work in (*await _discovery(shared, stack), *_keys(shared), moving.follow(shared)):
            stack.push_async_callback(_end, asyncio.create_task(_guarded(work)))
        s = shared.settings
        plain = web.AppRunner(
            admin.make_app(shared), access_log=None, handler_cancellation=True, shutdown_timeout=CUT_GRACE_S
        )
        admin_port, _ = await _listen(stack, plain, s.host, s.metrics_port)
        api_port, site = await _listen(stack, _edge(shared), s.host, s.port)
        yield Doors(api=api_port, admin=admin_port, site=site)


def make_app(shared: Shared) -> web.Application:
    app = web.Application(middlewares=[openai_errors(shared)], client_max_size=shared.settings.max_body_bytes)
    app.add_routes(Handlers(shared).routes())

    async def close_when_stopping(_: web.Request, response: web.StreamResponse) -> None:
        """Clients that keep a connection must look for another router."""
        if shared.is_stopping:
            response.force_close()
            response.headers["Connection"] = "close"

    app.on_response_prepare.append(close_when_stopping)
    return app


def _edge(shared: Shared) -> EdgeRunner:
    s = shared.settings
    limits = Limits(head_bytes=s.max_head_bytes, head_s=s.head_timeout_s, idle_s=s.keep_alive_s)
    return EdgeRunner(make_app(shared), limits, shared.metrics.deny, shutdown_timeout=CUT_GRACE_S)


def _keys(shared: Shared) -> list[Coroutine[Any, Any, None]]:
    """Read once before anything listens, then followed."""
    if not shared.settings.keys_dir:
        return []
    folder = Path(shared.settings.keys_dir)
    seen, found = keys_dir.read_if_changed(folder, None)
    if found is not None:
        keys_dir.put(shared.door, found)
    return [keys_dir.follow(shared.door, folder, seen)]


async def _discovery(shared: Shared, stack: AsyncExitStack) -> list[Coroutine[Any, Any, None]]:
    """Config from a file or the API, engines from URLs or the API: each is chosen by itself."""
    settings, work = shared.settings, []
    if settings.config:
        shared.use(from_manifest(discovery.read_file(settings.config)))
    if settings.has_static_engines:
        work.append(discovery.probe_static(shared))
    if settings.config and settings.has_static_engines:
        return work
    namespace, _, name = settings.service.partition("/")
    if not name:
        raise BadManifest("Say which LLMService this is: LLMSERVICE_SERVICE=<namespace>/<name>, or --config and URLs.")
    kube = Kube(find_access(settings.kubeconfig, settings.context))
    stack.push_async_callback(kube.close)
    if not settings.config:
        work.append(discovery.follow_service(shared, kube, namespace, name))
    if not settings.has_static_engines:
        work.append(discovery.follow_pods(shared, kube, namespace, name))
    return work


async def _guarded(work: Coroutine[Any, Any, None]) -> None:
    """What follows the world never ends by itself; if it does it is a bug, and a blind router must not go on."""
    try:
        await work
    except Exception:
        LOG.exception("what follows the world broke; the router ends")
        signal.raise_signal(signal.SIGTERM)
        raise


async def _listen(stack: AsyncExitStack, runner: web.AppRunner, host: str, port: int) -> tuple[int, web.TCPSite]:
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, host, port, backlog=1024)
    await site.start()
    return int(runner.addresses[0][1]), site


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT; then the open streams get their time."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    shared = make_shared(settings)
    async with serving(shared) as doors:
        LOG.info('{"event": "listening", "port": %d, "metrics_port": %d}', doors.api, doors.admin)
        await stop.wait()
        await leave(shared, doors.site)


async def leave(shared: Shared, site: web.TCPSite) -> None:
    """Not ready at once, still accepting for a moment (proxies learn with a delay), then wait for what runs."""
    shared.is_stopping = True
    settings = shared.settings
    LOG.info('{"event": "stopping", "in_flight": %d}', len(shared.running))
    await asyncio.sleep(settings.drain_delay_s)
    await site.stop()
    shared.is_closed = True
    if shared.running:
        await asyncio.wait(set(shared.running), timeout=settings.drain_limit_s)
    shared.is_cutting = True
    left = set(shared.running)
    for task in left:
        task.cancel()
    if left:
        LOG.warning('{"event": "cut", "requests": %d}', len(left))
        await asyncio.wait(left, timeout=CUT_GRACE_S)
