"""A connection to an engine: HTTP/1.1 over a protocol of our own. For requests, streams above all.

Why not aiohttp's client: it costs half of what the router does per token. Here the bytes of a stream go from the
socket of the engine to a `Sink` in the call that brings them: no task wakes up, nothing waits in a queue.
"""

import asyncio
from time import monotonic
from typing import Protocol, cast

from llmservice_serving.router.http_answer import Answer, BadAnswerError, Head

MOST_BUFFERED = 256 << 10
"""Bytes of a body that wait here to be read; then the socket is left alone, and the engine feels it."""


class WireError(Exception):
    """The engine, or the way to it, failed."""


class NotConnectedError(WireError):
    """It never had the request."""


class SilentError(WireError):
    """Nothing came for as long as was to be waited."""


class MovedError(WireError):
    """The engine shall not have the request any more."""


class Sink(Protocol):
    """What a stream is poured into. `now_s` is of time.monotonic()."""

    def frame(self, raw: bytes, now_s: float) -> bool:
        """`raw` begins with a chunk's line. Taken, if it is one whole chunk that needs no more reading; else False."""

    def feed(self, data: bytes, now_s: float) -> None:
        """Bytes of the body."""


class Wire(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, all_open: "set[Wire]"):
        self._all_open = all_open
        self._transport: asyncio.Transport | None = None
        self._answer = Answer()
        self._body = bytearray()
        self._error: Exception | None = None
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle_s, self._last_s = 0.0, 0.0
        self._is_busy = self._is_held = False
        self.kept_since_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._last_s = now_s = monotonic()
        sink = self._sink
        try:
            if sink is not None and self._answer.is_at_chunk and sink.frame(data, now_s):
                return
            self._take(data, now_s)
        except Exception as error:  # noqa: BLE001 - whoever waits for the answer gets it
            self.fail(error)

    def eof_received(self) -> None:
        """The transport closes itself then."""

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._is_busy and self._error is None and not self._answer.is_whole:
            try:
                if error is not None:
                    raise BadAnswerError(f"{type(error).__name__}: {error}")
                self._answer.end()
            except BadAnswerError as too_early:
                self._error = WireError(str(too_early))
        self._wake()
        self._all_open.discard(self)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def may_be_kept(self) -> bool:
        return self.is_open and self._error is None and self._answer.may_be_followed

    def send(self, request: bytes, idle_s: float) -> None:
        """`idle_s`: so long nothing may come before SilentError."""
        assert self._transport is not None
        self._answer, self._error, self._is_busy = Answer(), None, True
        self._body.clear()
        self._idle_s, self._last_s = idle_s, monotonic()
        self._timer = asyncio.get_running_loop().call_later(idle_s, self._look)
        self._transport.write(request)

    async def head(self) -> Head:
        while self._answer.head is None:
            await self._more()
        return self._answer.head

    async def read(self) -> bytes:
        """The next bytes of the body; none at its end."""
        while not self._body and not self._answer.is_whole:
            await self._more()
        data = bytes(self._body)
        self._body.clear()
        self.hold(False)
        return data

    async def read_all(self) -> bytes:
        parts = []
        while part := await self.read():
            parts.append(part)
        return b"".join(parts)

    async def pour(self, sink: Sink) -> None:
        """All that is left of the body, as it comes. What `sink` raises ends it."""
        if self._body:
            data = bytes(self._body)
            self._body.clear()
            sink.feed(data, self._last_s)
        self._sink = sink
        try:
            while not self._answer.is_whole:
                await self._more()
        finally:
            self._sink = None

    def hold(self, is_held: bool) -> None:
        """Read nothing for now: who takes the body is slower. The time that takes is not the engine's silence."""
        if is_held == self._is_held or self._transport is None:
            return
        self._is_held = is_held
        if is_held:
            self._transport.pause_reading()
        else:
            self._last_s = monotonic()
            self._transport.resume_reading()

    def rest(self) -> None:
        """The request is over; the connection waits for another one."""
        self._stop_timer()
        self.hold(False)
        self._is_busy = False

    def abort(self) -> None:
        """Closed at once: the engine sees it and stops its work."""
        self._stop_timer()
        self._is_busy = False
        if self._transport is not None:
            self._transport.abort()

    def _take(self, data: bytes, now_s: float) -> None:
        if not self._is_busy or self._error is not None:
            self.abort()
            return
        had_head = self._answer.head is not None
        body = self._answer.feed(data)
        if self._sink is not None:
            if body:
                self._sink.feed(body, now_s)
        else:
            self._body += body
            if len(self._body) > MOST_BUFFERED:
                self.hold(True)
            if body or not had_head:
                self._wake()
        if self._answer.is_whole:
            self._wake()

    def fail(self, error: Exception) -> None:
        """Whoever waits for the answer gets it. Nothing that comes after it goes to anybody."""
        self._error = WireError(str(error)) if isinstance(error, BadAnswerError) else error
        self._sink = None
        self._wake()

    async def _more(self) -> None:
        """Until something came. The error, if it is one."""
        if self._error is not None:
            raise self._error
        if self._transport is None:
            raise WireError("the connection is closed")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _look(self) -> None:
        """One timer for many reads: it finds out by itself how long nothing came."""
        now_s = monotonic()
        if self._is_held:
            self._last_s = now_s
        left_s = self._last_s + self._idle_s - now_s
        if left_s <= 0:
            self.fail(SilentError(f"nothing came for {self._idle_s:g} s"))
        else:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
