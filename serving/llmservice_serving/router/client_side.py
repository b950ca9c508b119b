"""The client's side of one request: its stream, opened with the first byte, and the judgement of its first token."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from llmservice_serving.router.edge import Edge
from llmservice_serving.router.errors import ClientGone, Refusal
from llmservice_serving.router.sse import error_event

LOG = logging.getLogger("llmservice.router")
REQUEST_ID = "x-request-id"


def log_line(level: int, event: str, **facts: Any) -> None:
    """One line of JSON; facts that are None are left out."""
    if LOG.isEnabledFor(level):
        LOG.log(level, json.dumps({"event": event, **{k: v for k, v in facts.items() if v is not None}}))


def refusal_response(refusal: Refusal, request_id: str | None = None) -> web.Response:
    headers = {REQUEST_ID: request_id} if request_id else {}
    return web.json_response(refusal.body(), status=refusal.status, headers={**headers, **refusal.headers()})


class Stall:
    """Cuts a client off that takes nothing of its answer for `limit_s`, for it holds an engine's KV.

    One timer for many writes: a time-out around each of them would cost a sixth of the router's work per token.
    """

    def __init__(self, request: web.Request, limit_s: float):
        self._request, self._limit_s = request, limit_s
        self._loop = asyncio.get_running_loop()
        self._since_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._since_s = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, self._look)

    def end(self) -> None:
        self._since_s = None

    def close(self) -> None:
        self._since_s = None
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """Without a write there is nothing to wait for; the next one sets the timer again."""
        self._timer = None
        if self._since_s is None:
            return
        if self._loop.time() < self._since_s + self._limit_s:
            self._timer = self._loop.call_at(self._since_s + self._limit_s, self._look)
        elif self._request.transport is not None:
            self._request.transport.abort()


class ClientStream:
    """Nothing is sent before the first byte of an answer exists: until then a request may go to another engine."""

    def __init__(self, request: web.Request, request_id: str, stall_s: float):
        self._request, self._stall = request, Stall(request, stall_s)
        headers = {"Cache-Control": "no-cache", REQUEST_ID: request_id}
        self.response = web.StreamResponse(headers=headers)
        self.response.content_type = "text/event-stream"
        self.response.charset = "utf-8"
        self._push: Callable[[bytes], None]
        self.takes_chunks = False
        """Its client reads HTTP/1.1, so the answer is sent in chunks."""

    @property
    def is_open(self) -> bool:
        return self.response.prepared

    async def write(self, data: bytes) -> None:
        """Returns once the data is in the socket's bounded buffer: a slow reader slows its engine's stream down."""
        self._stall.begin()
        try:
            if not self.is_open:
                await self.response.prepare(self._request)
            await self.response.write(data)
        except (ConnectionError, RuntimeError) as error:
            raise ClientGone(str(error)) from error
        self._stall.end()

    @contextmanager
    def direct(self, hold: Callable[[bool], None]) -> Iterator[Callable[[bytes], None]]:
        """For an open stream: inside the block `push` may be used. `hold` is told whether the client is behind.

        What the block gets writes bytes as they are: whole chunks of HTTP, only where it `takes_chunks`.
        """
        edge = self._request.protocol
        assert isinstance(edge, Edge)
        if edge.transport is None:
            raise ClientGone("the connection is closed")
        self._push, self.takes_chunks = (
            edge.transport.write,
            self.response.headers.get("Transfer-Encoding") == "chunked",
        )

        def valve(is_behind: bool) -> None:
            self._stall.begin() if is_behind else self._stall.end()
            hold(is_behind)

        edge.valve = valve
        if edge.writing_paused:
            valve(True)
        try:
            yield self._push
        finally:
            edge.valve = None
            self._stall.end()

    def push(self, data: bytes) -> None:
        """To the socket's buffer at once. It takes everything: who pushes must stop when told to hold."""
        try:
            self._push(b"%x\r\n%b\r\n" % (len(data), data) if self.takes_chunks else data)
        except (ConnectionError, RuntimeError) as error:
            raise ClientGone(str(error)) from error

    async def end(self) -> web.StreamResponse:
        self._stall.begin()
        try:
            await self.response.write_eof()
        except (ConnectionError, RuntimeError) as error:
            raise ClientGone(str(error)) from error
        self._stall.end()
        return self.response

    def close(self) -> None:
        """Whatever became of it."""
        self._stall.close()

    async def fail(self, refusal: Refusal) -> web.StreamResponse:
        """A last event that OpenAI clients raise as an error, then a clean close without [DONE]."""
        await self.write(error_event(refusal.body()))
        return await self.end()


class TtftJudge:
    """Judges one streaming request exactly once: by its first token, or by its target when that passes first.

    A miss is therefore counted when it happens and not when an overloaded engine answers at last; and a client that
    leaves before the target leaves no event.
    """

    def __init__(self, target_s: float, arrived_s: float, judge: Callable[[bool], None]):
        self._judge, self._deadline_s = judge, arrived_s + target_s
        loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = loop.call_later(
            self._deadline_s - time.monotonic(), self._decide, False
        )

    def first_token(self) -> None:
        self._decide(time.monotonic() <= self._deadline_s)

    def failed(self) -> None:
        self._decide(False)

    def dismiss(self) -> None:
        """The client left, or its request was wrong: no event."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _decide(self, is_good: bool) -> None:
        if self._timer is not None:
            self.dismiss()
            self._judge(is_good)
