"""Connections to engines, kept for a moment and used again."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from time import monotonic
from urllib.parse import urlsplit

from llmservice_serving.router.engine_wire import NotConnectedError, Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an engine listens."""

    host: str
    port: int
    is_tls: bool
    host_header: bytes
    path: bytes
    """In front of that of each request."""


@lru_cache(maxsize=4096)
def origin_of(url: str) -> Origin:
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise NotConnectedError(f"no URL of an engine: {url}")
    return Origin(
        host=parts.hostname,
        port=parts.port or (443 if is_tls else 80),
        is_tls=is_tls,
        host_header=parts.netloc.rpartition("@")[2].encode(),
        path=parts.path.rstrip("/").encode(),
    )


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


MOST_TURNS = 10
"""Of the loop, until connections that were aborted are closed; it takes one or two."""


class Wires:
    """Connections to all engines. At most `MOST_KEPT` of each wait for another request, no longer than `keep_s`."""

    MOST_KEPT = 1024

    def __init__(self, *, connect_s: float, keep_s: float, prepare: Callable[[asyncio.Transport], None]):
        self._connect_s, self._keep_s, self._prepare = connect_s, keep_s, prepare
        self._open: set[Wire] = set()
        self._kept: dict[Origin, list[Wire]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def get(self, origin: Origin) -> Wire:
        """The one that was used last, or a new one. NotConnectedError."""
        kept = self._kept.get(origin, [])
        oldest_s = monotonic() - self._keep_s
        while kept:
            wire = kept.pop()
            if wire.is_open and wire.kept_since_s > oldest_s:
                return wire
            wire.abort()
        return await self._connect(origin)

    def put(self, origin: Origin, wire: Wire) -> None:
        """Back from a request, however it ended."""
        kept = self._kept.setdefault(origin, [])
        if not wire.may_be_kept or len(kept) >= self.MOST_KEPT:
            wire.abort()
            return
        wire.rest()
        wire.kept_since_s = monotonic()
        kept.append(wire)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._keep_s, self._close_old)

    async def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for wire in list(self._open):
            wire.abort()
        for _ in range(MOST_TURNS):
            if self._open:
                await asyncio.sleep(0)

    async def _connect(self, origin: Origin) -> Wire:
        loop = asyncio.get_running_loop()
        tls = _tls() if origin.is_tls else None
        try:
            async with asyncio.timeout(self._connect_s):
                transport, wire = await loop.create_connection(
                    lambda: Wire(self._open), origin.host, origin.port, ssl=tls
                )
        except (OSError, TimeoutError) as error:
            raise NotConnectedError(f"{origin.host}:{origin.port}: {error or 'no connection in time'}") from error
        self._prepare(transport)
        if wire.is_open:  # one given up while it connects is closed by the loop and never told so
            self._open.add(wire)
        return wire

    def _close_old(self) -> None:
        oldest_s = monotonic() - self._keep_s
        for origin, kept in list(self._kept.items()):
            young = [wire for wire in kept if wire.is_open and wire.kept_since_s > oldest_s]
            for wire in set(kept) - set(young):
                wire.abort()
            if young:
                self._kept[origin] = young
            else:
                del self._kept[origin]
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(self._keep_s, self._close_old) if self._kept else None
