"""An engine's stream to its client, event by event; what of it the client has, should another engine have to go on."""

import time
from collections.abc import Callable

from llmservice_serving.router import resume, sse
from llmservice_serving.router.answer import Answer
from llmservice_serving.router.client_side import ClientStream
from llmservice_serving.router.engine_wire import Wire
from llmservice_serving.router.errors import JSON
from llmservice_serving.router.rules import Ask
from llmservice_serving.router.state import Shared


class Relay:
    """Of one request, over all engines that serve it. A `Sink`."""

    def __init__(self, shared: Shared, ask: Ask, stream: ClientStream):
        self._ask, self._stream = ask, stream
        self._why_not = resume.why_not(ask) if shared.resumes else resume.OFF
        self._gaps = shared.metrics.gaps(ask.service_class.name)
        self._answer: Answer | None = None
        self._reader: Answer | sse.Reader = sse.Reader(wants_usage=ask.wants_usage)
        self._last_s: float | None = None
        self._cutter = sse.Cutter()
        self._template = sse.Template()
        self._first: Callable[[], None] | None = None
        self._each: Callable[[int], None]
        self._push_raw: Callable[[bytes], None]
        self.tokens = 0
        """That the client has."""

    @property
    def came(self) -> int:
        """Tokens that engines brought until now; grows as long as a stream is alive."""
        return self.tokens if self._answer is None else len(self._answer.sent.tokens)

    @property
    def usage(self) -> JSON:
        return self._reader.usage

    @property
    def is_done(self) -> bool:
        return self._reader.is_done

    @property
    def is_whole(self) -> bool:
        """The last token is out, whatever became of the rest of the stream."""
        return self._answer is not None and self._answer.sent.finish is not None

    def body(self, body: JSON, c: resume.Continuation | None) -> JSON:
        """The decode copy of the request as this relay needs it, and readiness to read the answer to it."""
        if c is not None and self._answer is not None:
            self._answer.go_on(c)
            body = resume.decode_body(self._ask, body, c)
        elif self._why_not is None:
            self._reader = self._answer = Answer(self._ask)
        else:
            self._reader = sse.Reader(wants_usage=self._ask.wants_usage)
        return body if self._answer is None else {**body, "return_token_ids": True}

    def go_on(self) -> resume.Continuation | str:
        """Where another engine may go on with what the client has, or why none may."""
        if self._answer is None:
            return self._why_not or resume.NO_IDS
        return resume.go_on(self._ask, self._answer.sent)

    async def copy(self, wire: Wire, *, first: Callable[[], None], each: Callable[[int], None]) -> None:
        """Engine to client, to the end; `each` is told how many tokens a read brought, `first` before the first.

        The first event opens the client's stream, which must be waited for. From then on nothing is.
        """
        self._cutter, self._first, self._each = sse.Cutter(), first, each
        self._template.forget()
        while not self._stream.is_open:
            if not await self._open(wire):
                return
        with self._stream.direct(wire.hold) as self._push_raw:
            await wire.pour(self)

    async def _open(self, wire: Wire) -> bool:
        """With the first event, False if none came. Before an error only where somebody could go on from there."""
        before, data = self._reader.tokens, await wire.read()
        shown, error = self._read(self._cutter.feed(data))
        if shown and (error is None or self._answer is not None):
            await self._stream.write(shown)
        if error is not None:
            raise error
        self._count(before, time.monotonic())
        return bool(data)

    def frame(self, raw: bytes, now_s: float) -> bool:
        """Most reads are one chunk with one event like the last: its bytes go on as they came, or without the token."""
        shown: bytes | None = None
        if self._answer is not None:
            if self._stream.takes_chunks and not self._cutter.has_rest:
                shown = self._answer.take(raw)
        elif self._template.fits(raw):
            shown = raw
            self._reader.tokens += 1
        if shown is None:
            return False
        self._push_raw(shown)
        if self._last_s is not None:
            self._gaps.observe(now_s - self._last_s)
        self._last_s = now_s
        self.tokens += 1
        self._each(1)
        return True

    def feed(self, data: bytes, now_s: float) -> None:
        """One write for all. What came before an error is out, too."""
        before = self._reader.tokens
        events = self._cutter.feed(data)
        shown, error = self._read(events)
        if shown:
            self._stream.push(shown)
        if error is not None:
            raise error
        self._count(before, now_s)
        self._learn(events, shown, self._reader.tokens - before)

    def _learn(self, events: list[bytes], shown: bytes, new: int) -> None:
        """Of a single event that was passed as it was, where the next one may be passed unread."""
        if self._answer is not None or not self._stream.takes_chunks or self._cutter.has_rest:
            self._template.forget()
        elif len(events) == 1 and shown == events[0] + sse.END and new:
            self._template.learn(events[0])

    def _read(self, events: list[bytes]) -> tuple[bytes, sse.StreamError | None]:
        """What the client may see of them, up to an error."""
        shown: list[bytes] = []
        found = None
        try:
            shown.extend(seen for event in events if (seen := self._reader.read(event)) is not None)
        except sse.StreamError as error:
            found = error
        return sse.END.join((*shown, b"")), found

    def _count(self, before: int, now_s: float) -> None:
        new = self._reader.tokens - before
        if not new:
            return
        if self._last_s is not None:
            self._gaps.observe(now_s - self._last_s)
        self._last_s = now_s
        self.tokens += new
        if self._first is not None:
            self._first()
            self._first = None
        self._each(new)

    async def close(self) -> None:
        """What the engine did not come to say any more."""
        if self._answer is not None and not self._answer.is_done:
            await self._stream.write(sse.END.join((*self._answer.closing(), b"")))
