"""An engine's stream to its client, event by event; what of it the client has, should another engine have to go on."""

import time
from collections.abc import AsyncIterator

from llmservice_serving.router import resume, sse
from llmservice_serving.router.answer import Answer
from llmservice_serving.router.client_side import ClientStream
from llmservice_serving.router.errors import JSON
from llmservice_serving.router.rules import Ask
from llmservice_serving.router.state import Shared


class Relay:
    """Of one request, over all engines that serve it."""

    def __init__(self, shared: Shared, ask: Ask, stream: ClientStream):
        self._ask, self._stream = ask, stream
        self._why_not = resume.why_not(ask) if shared.resumes else resume.OFF
        self._gaps = shared.metrics.gaps(ask.service_class.name)
        self._answer: Answer | None = None
        self._reader: Answer | sse.Reader = sse.Reader(wants_usage=ask.wants_usage)
        self._last_s: float | None = None
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

    async def copy(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[int]:
        """Engine to client; yields how many tokens each write brought, once they are in the client's socket."""
        cutter, seen = sse.Cutter(), self._reader.tokens
        async for chunk in chunks:
            await self._pass_on(cutter.feed(chunk))
            new = self._reader.tokens - seen
            if not new:
                continue
            now_s = time.monotonic()
            if self._last_s is not None:
                self._gaps.observe(now_s - self._last_s)
            self._last_s, seen = now_s, self._reader.tokens
            self.tokens += new
            yield new

    async def _pass_on(self, events: list[bytes]) -> None:
        """One write for all. What came before an error is out, too, where somebody could go on from there."""
        shown: list[bytes] = []
        try:
            shown.extend(seen for event in events if (seen := self._reader.read(event)) is not None)
        except sse.StreamError:
            if self._answer is not None or self._stream.is_open:
                await self._write(shown)
            raise
        await self._write(shown)

    async def _write(self, events: list[bytes]) -> None:
        if events:
            await self._stream.write(sse.END.join(events) + sse.END)

    async def close(self) -> None:
        """What the engine did not come to say any more."""
        if self._answer is not None and not self._answer.is_done:
            await self._write(self._answer.closing())
