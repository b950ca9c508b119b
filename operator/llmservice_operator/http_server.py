"""`/healthz` and `/metrics` on one port. It only reads."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from llmservice_operator import metrics


async def serve(port: int, is_alive: Callable[[], bool]) -> web.AppRunner:
    """`is_alive`: False asks the kubelet for a restart. An API server that is away is no reason for one."""

    async def healthz(_: web.Request) -> web.Response:
        if is_alive():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the watches ended, or the definition was deleted\n")

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/metrics", exposition)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
