"""The second port: /metrics for Prometheus, /fleet and /calls for the operator, /healthz and /readyz for the kubelet.

Not reachable for clients.
"""

from aiohttp import web

from llmservice_core.contract import PATH_CALLS, PATH_FLEET
from llmservice_serving.router.state import Shared

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def make_app(shared: Shared) -> web.Application:
    async def metrics(_: web.Request) -> web.Response:
        fleet = shared.fleet
        shared.metrics.set_endpoints((e.pool, fleet.state_of(e)) for e in fleet.snapshot())
        for c in shared.config.classes if shared.config else ():
            shared.metrics.set_queue(c.name, shared.room.waiting_tokens(c.name))
        keyring = shared.door.keyring
        shared.metrics.set_access(shared.door.state(shared.config), keyring.tenants if keyring else ())
        return web.Response(body=shared.metrics.exposition(), headers={"Content-Type": TEXT})

    async def fleet(_: web.Request) -> web.Response:
        """An unread list of pods would look like engines that nobody uses."""
        if not shared.are_engines_synced:
            return web.Response(text="the list of engines has not been read\n", status=503)
        return web.json_response(shared.fleet.told())

    async def calls(_: web.Request) -> web.Response:
        return web.json_response(shared.fleet.calls(len(shared.room)))

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why = shared.not_ready()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get(PATH_FLEET, fleet), web.get(PATH_CALLS, calls)])
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    return app
