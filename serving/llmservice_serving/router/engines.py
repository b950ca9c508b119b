"""The HTTP client towards engines. Turns whatever goes wrong there into an EngineFailure or a Passed refusal."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from llmservice_core.routing import Endpoint
from llmservice_serving.router.errors import JSON, EngineFailure, Passed, as_openai
from llmservice_serving.router.settings import Settings

KEEP_ALIVE_S = 2.0
"""Below the 5 s after which vLLM's HTTP server closes an idle connection, so that we never write into a closing one."""
UNAVAILABLE = 503
PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 5, 3, 3
"""A node that vanishes says nothing: probes of the kernel find a dead connection in about 14 s, not idle_timeout_s."""


class Engines:
    """One connection pool for all engines; closing a response early closes its connection, which aborts in vLLM."""

    def __init__(self, settings: Settings):
        self._settings = settings
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=KEEP_ALIVE_S, ttl_dns_cache=10, socket_factory=_socket
        )
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=True, read_bufsize=1 << 18)

    async def close(self) -> None:
        await self._session.close()

    async def get(self, endpoint: Endpoint, path: str, timeout_s: float) -> tuple[int, bytes]:
        async with _failures(endpoint), self._session.get(endpoint.url + path, timeout=self._total(timeout_s)) as reply:
            return reply.status, await reply.read()

    async def post(self, endpoint: Endpoint, path: str, body: JSON, request_id: str, timeout_s: float) -> JSON:
        """A whole JSON answer."""
        async with self._send(endpoint, path, body, request_id, self._total(timeout_s)) as reply:
            return _object(endpoint, await reply.read())

    @asynccontextmanager
    async def stream(
        self, endpoint: Endpoint, path: str, body: JSON, request_id: str, idle_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """An open stream of bytes; leaving the block before its end cancels the request in the engine."""
        connect_s = self._settings.connect_timeout_s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=idle_s)
        async with self._send(endpoint, path, body, request_id, timeout) as reply:
            yield reply.content.iter_any()

    @asynccontextmanager
    async def _send(
        self, endpoint: Endpoint, path: str, body: JSON, request_id: str, timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
        data = json.dumps(body, separators=(",", ":")).encode()
        post = self._session.post(endpoint.url + path, data=data, headers=headers, timeout=timeout)
        async with _failures(endpoint), post as reply:
            if reply.status >= 400:
                _raise_for(endpoint, reply.status, await reply.read())
            yield reply

    def _total(self, timeout_s: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._settings.connect_timeout_s)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for an address as getaddrinfo gives it, with probes of idle connections."""
    family, kind, protocol, *_ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, PROBE_AFTER_S),
        (socket.TCP_KEEPINTVL, PROBE_EVERY_S),
        (socket.TCP_KEEPCNT, PROBES),
        (socket.TCP_USER_TIMEOUT, 1000 * (PROBE_AFTER_S + PROBE_EVERY_S * PROBES)),
    ):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


@asynccontextmanager
async def _failures(endpoint: Endpoint) -> AsyncIterator[None]:
    """aiohttp's errors as ours. A refused connection never had the request; any other error may have.

    Code inside the block must not let errors of the client's side out as OSError: they would count for the engine.
    """
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise EngineFailure(endpoint.name, "connect", str(error), had_request=False, is_down=True) from error
    except TimeoutError as error:
        # A full queue answers late, too: others must still get there. A hung process fails its own readiness probe.
        raise EngineFailure(endpoint.name, "timeout", "no answer in time", had_request=True, is_down=False) from error
    except (aiohttp.ClientError, OSError) as error:
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
