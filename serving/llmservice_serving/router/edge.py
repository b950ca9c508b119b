"""Connections before there is a request: heads that are too large, too slow or not HTTP, and idle ones.

aiohttp bounds lines, bodies and pipelines, but waits for the end of a head as long as for the next request, and quotes
what it could not read in logs and answers, where a key may stand. This subclass of its protocol mends both.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from llmservice_serving.router.errors import error_body

LOG = logging.getLogger("llmservice.router")
Deny = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    head_bytes: int
    head_s: float
    """From the first byte of a request to the end of its headers."""
    idle_s: float


class Edge(web.RequestHandler):
    """One connection."""

    __slots__ = ("_deny", "_head_bytes", "_head_timer", "_limits", "valve")

    def __init__(self, manager: web.Server, *, limits: Limits, deny: Deny, **options: Any):
        super().__init__(manager, **options)
        self._limits, self._deny = limits, deny
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self.valve: Callable[[bool], None] | None = None
        """Told when the client has more waiting than it takes (True), and when that is over (False)."""

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.valve is not None:
            self.valve(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.valve is not None:
            self.valve(False)

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._end_of_head()
        elif self._waits_for_head():
            self._more_of_head(len(data))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._end_of_head()
        super().connection_lost(exc)

    def _waits_for_head(self) -> bool:
        """Otherwise a body comes, or a request is sent behind another: those have limits of their own."""
        is_idle = self._waiter is not None and not self._waiter.done()
        return self.transport is not None and (self._request_count == 0 or is_idle)

    def _more_of_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.head_bytes:
            self._refuse(431, f"The head of the request is larger than {self._limits.head_bytes} bytes.", "bad_head")
        elif self._head_timer is None:
            loop = asyncio.get_running_loop()
            self._head_timer = loop.call_later(self._limits.head_s, self._too_slow)

    def _end_of_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        message = f"The head of the request did not come within {self._limits.head_s:g} s."
        self._refuse(408, message, "slow_client")

    def _refuse(self, status: int, message: str, reason: str) -> None:
        """Written as it is: without a head there is no request that aiohttp could answer."""
        self._end_of_head()
        if self.transport is None:
            return
        self._deny(reason)
        body = json.dumps(error_body(status, message, "invalid_request_error")).encode()
        phrase = {408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
        head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        self.force_close()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Once a body that cannot be unpacked is refused, aiohttp reads on and would log it as a fault of ours."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is not HTTP. Neither logged nor answered with what came: it may hold a key."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        if status >= 500:
            LOG.error("a request failed outside of its handler: %s", type(exc).__name__)
        else:
            self._deny("bad_head")
        status, text = _what_is_wrong(status, exc)
        response = web.json_response(error_body(status, text, "invalid_request_error"), status=status)
        response.force_close()
        return response


def _what_is_wrong(status: int, error: BaseException | None) -> tuple[int, str]:
    if isinstance(error, LineTooLong):
        return 431, "A line of the request's head is too long."
    if status >= 500:
        return status, "The router failed at this request; its log has the reason."
    return status, "The request is not HTTP/1.1 as this server understands it."


class EdgeServer(web.Server):
    """Makes an Edge of each connection."""

    def __init__(self, plain: web.Server, limits: Limits, deny: Deny):
        super().__init__(plain.request_handler, request_factory=plain.request_factory, handler_cancellation=True)
        self._limits, self._deny = limits, deny

    def __call__(self) -> web.RequestHandler:
        return Edge(
            self,
            limits=self._limits,
            deny=self._deny,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=self._limits.idle_s,
        )


class EdgeRunner(web.AppRunner):
    """Runs an application behind Edge connections."""

    __slots__ = ("_deny", "_limits")

    def __init__(self, app: web.Application, limits: Limits, deny: Deny, *, shutdown_timeout: float):
        super().__init__(app, access_log=None, shutdown_timeout=shutdown_timeout)
        self._limits, self._deny = limits, deny

    async def _make_server(self) -> web.Server:
        return EdgeServer(await super()._make_server(), self._limits, self._deny)
