"""The HTTP client towards engines. Turns whatever goes wrong there into an EngineFailure or a Passed refusal."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from llmservice_core.routing import Endpoint
from llmservice_serving.router.engine_wire import MovedError, NotConnectedError, SilentError, Wire, WireError
from llmservice_serving.router.engine_wires import Origin, Wires, origin_of
from llmservice_serving.router.errors import JSON, EngineFailure, Passed, as_openai
from llmservice_serving.router.settings import Settings

KEEP_ALIVE_S = 2.0
"""Below the 5 s after which vLLM's HTTP server closes an idle connection, so that we never write into a closing one."""
UNAVAILABLE = 503
MOVED = "drain_deadline"
PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 5, 3, 3
"""A node that vanishes says nothing: probes of the kernel find a dead connection in about 14 s, not idle_timeout_s."""


class Engines:
    """All engines. Closing an answer early closes its connection, which aborts in vLLM.

    Requests go over connections of our own (`engine_wire.py`), whatever is asked besides through aiohttp.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=KEEP_ALIVE_S, ttl_dns_cache=10, socket_factory=_socket
        )
        self._session = aiohttp.ClientSession(connector=connector)
        self._calls: dict[Wire, str] = {}
        """Requests that are with an engine, and its name."""
        self._wires = Wires(connect_s=settings.connect_timeout_s, keep_s=KEEP_ALIVE_S, prepare=_probe_transport)

    async def close(self) -> None:
        await self._wires.close()
        await self._session.close()

    def cut(self, name: str) -> int:
        """All requests on an engine end as a failure that is no fault of theirs; how many there were."""
        found = [wire for wire, engine in self._calls.items() if engine == name]
        for wire in found:
            wire.fail(MovedError("its time to leave is over"))
        return len(found)

    async def get(self, endpoint: Endpoint, path: str, timeout_s: float) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._settings.connect_timeout_s)
        async with _failures(endpoint), self._session.get(endpoint.url + path, timeout=timeout) as reply:
            return reply.status, await reply.read()

    async def post(self, endpoint: Endpoint, path: str, body: JSON, request_id: str, timeout_s: float) -> JSON:
        """A whole JSON answer."""
        stream = self.stream(endpoint, path, body, request_id, timeout_s)
        async with _failures(endpoint), asyncio.timeout(timeout_s), stream as wire:
            return _object(endpoint, await wire.read_all())

    @asynccontextmanager
    async def stream(
        self, endpoint: Endpoint, path: str, body: JSON, request_id: str, idle_s: float
    ) -> AsyncIterator[Wire]:
        """An open stream of bytes; leaving the block before its end cancels the request in the engine."""
        async with _failures(endpoint):
            origin = origin_of(endpoint.url)
            wire = await self._wires.get(origin)
            self._calls[wire] = endpoint.name
            try:
                wire.send(_request(origin, path, body, request_id), idle_s)
                head = await wire.head()
                if head.status >= 400:
                    _raise_for(endpoint, head.status, await wire.read_all())
                yield wire
            finally:
                del self._calls[wire]
                self._wires.put(origin, wire)


def _request(origin: Origin, path: str, body: JSON, request_id: str) -> bytes:
    """`request_id` is of our own making, so nothing of a client stands in the head."""
    data = json.dumps(body, separators=(",", ":")).encode()
    return (
        b"POST %b%b HTTP/1.1\r\nHost: %b\r\nAccept: */*\r\nContent-Type: application/json\r\n"
        b"X-Request-Id: %b\r\nContent-Length: %d\r\n\r\n%b"
    ) % (origin.path, path.encode(), origin.host_header, request_id.encode(), len(data), data)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for an address as getaddrinfo gives it, with probes of idle connections."""
    family, kind, protocol, *_ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    _probe(made)
    return made


def _probe_transport(transport: asyncio.Transport) -> None:
    _probe(transport.get_extra_info("socket"))


def _probe(made: socket.socket) -> None:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, PROBE_AFTER_S),
        (socket.TCP_KEEPINTVL, PROBE_EVERY_S),
        (socket.TCP_KEEPCNT, PROBES),
        (socket.TCP_USER_TIMEOUT, 1000 * (PROBE_AFTER_S + PROBE_EVERY_S * PROBES)),
    ):
        made.setsockopt(socket.IPPROTO_TCP, option, value)


@asynccontextmanager
async def _failures(endpoint: Endpoint) -> AsyncIterator[None]:
    """Errors of both clients as ours. A refused connection never had the request; any other error may have.

    Code inside the block must not let errors of the client's side out as OSError: they would count for the engine.
    """
    try:
        yield
    except (NotConnectedError, aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise EngineFailure(endpoint.name, "connect", str(error), had_request=False, is_down=True) from error
    except MovedError as error:
        raise EngineFailure(endpoint.name, MOVED, str(error), had_request=False, is_down=False) from error
    except (TimeoutError, SilentError) as error:
        # A full queue answers late, too: others must still get there. A hung process fails its own readiness probe.
        raise EngineFailure(endpoint.name, "timeout", "no answer in time", had_request=True, is_down=False) from error
    except (WireError, aiohttp.ClientError, OSError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise EngineFailure(endpoint.name, "disconnect", detail, had_request=True, is_down=True) from error


def _raise_for(endpoint: Endpoint, status: int, text: bytes) -> None:
    if status < 500:
        raise Passed(status, as_openai(status, text))
    detail = text.decode(errors="replace")[:300]
    is_down = status == UNAVAILABLE
    raise EngineFailure(endpoint.name, f"http_{status}", detail, had_request=not is_down, is_down=is_down)


def _object(endpoint: Endpoint, text: bytes) -> JSON:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise EngineFailure(endpoint.name, "bad_answer", "not a JSON object", had_request=True, is_down=False)
    return answer
