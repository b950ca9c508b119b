"""Streams without a pause through one service, each held against the answer that the same prompt had in quiet times."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp

from llmservice_core.contract import HEADER_CLASS

TOKENS = (90, 140, 200, 300)
"""Of the answers. Different, so that pods never fall idle all at once."""
PROMPTS = tuple(f"tell me story number {i}, and let it be a long one " * 4 for i in range(len(TOKENS)))
WITH_IDS = (1, 3)
"""Prompts whose answers bring their token ids along, and are compared id by id; the others by their text alone."""
ANSWER_TIMEOUT_S = 120.0
RECONNECTS = 3
RECONNECT_S = 0.5
"""A connection that nobody accepted brought no request anywhere: it is made again, as OpenAI's own client does."""


class Outcome(StrEnum):
    WHOLE = "whole"
    FAILED = "failed"
    """Before its first token."""
    CUT = "cut"
    ALTERED = "altered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request as its client saw it; times of the monotonic clock. `gap_s`: the longest between two of its chunks.

    `is_broken`: its connection ended without the end of the response, as when the router's process dies.
    """

    service_class: str
    prompt: int
    began_s: float
    ended_s: float
    outcome: Outcome
    detail: str = ""
    gap_s: float | None = None
    is_broken: bool = False
    reconnects: int = 0

    def __str__(self) -> str:
        return f"{self.service_class or 'default class'}, prompt {self.prompt}: {self.outcome}, {self.detail}"


class LostError(Exception):
    """An answer that did not come whole."""

    def __init__(self, outcome: Outcome, detail: str):
        super().__init__(detail)
        self.outcome = outcome


@dataclass(slots=True)
class Reading:
    """What has come of one answer."""

    parts: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    used: int = 0
    is_done: bool = False
    last_s: float | None = None
    gap_s: float | None = None

    def line(self, line: bytes) -> None:
        """One line of an event stream; an error event raises."""
        if not line.startswith(b"data: "):
            return
        if line.strip() == b"data: [DONE]":
            self.is_done = True
            return
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            raise LostError(self.if_it_ends, f"error event: {event['error'].get('message')}")
        for choice in event.get("choices", []):
            self.parts.append(choice["text"])
            self.ids += choice.get("token_ids") or []
            self._saw_chunk()
        self.used = (event.get("usage") or {}).get("completion_tokens", self.used)

    def _saw_chunk(self) -> None:
        now_s = time.monotonic()
        if self.last_s is not None:
            self.gap_s = max(self.gap_s or 0.0, now_s - self.last_s)
        self.last_s = now_s

    @property
    def if_it_ends(self) -> Outcome:
        return Outcome.CUT if self.parts else Outcome.FAILED

    @property
    def tokens(self) -> tuple[str, tuple[int, ...]]:
        return "".join(self.parts), tuple(self.ids)


@dataclass(slots=True)
class Streams:
    """`classes`: the streams take them in turns; none: all are of the default class. `answers` grows as they end."""

    url: str
    model: str
    classes: Sequence[str] = ("",)
    headers: Mapping[str, str] = field(default_factory=dict)
    patience_s: float = ANSWER_TIMEOUT_S
    answers: list[Answer] = field(default_factory=list)
    expected: dict[int, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def whole(self) -> int:
        return sum(a.outcome is Outcome.WHOLE for a in self.answers)

    @property
    def lost(self) -> list[str]:
        """What failed, came short or came different, in words."""
        return [str(a) for a in self.answers if a.outcome is not Outcome.WHOLE]

    async def learn(self) -> None:
        """One after the other, before anything happens."""
        async with self._session() as session:
            for which in range(len(TOKENS)):
                reading = Reading()
                await self._read(session, which, "", reading)
                self.expected[which] = reading.tokens

    async def run(self, width: int) -> None:
        async with self._session() as session:
            await asyncio.gather(*(self._ask_on(session, i) for i in range(width)))

    def _session(self) -> aiohttp.ClientSession:
        """A connection for each request: all routers get some, and none is reused while its router leaves."""
        timeout = aiohttp.ClientTimeout(total=self.patience_s)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        return aiohttp.ClientSession(timeout=timeout, connector=connector, headers=dict(self.headers))

    async def _ask_on(self, session: aiohttp.ClientSession, number: int) -> None:
        service_class, which = self.classes[number % len(self.classes)], number
        while not self._stopped.is_set():
            which = (which + 1) % len(TOKENS)
            answer = await self._one(session, which, service_class)
            self.answers.append(answer)
            if answer.outcome is not Outcome.WHOLE:
                await asyncio.sleep(RECONNECT_S)

    async def _one(self, session: aiohttp.ClientSession, which: int, service_class: str) -> Answer:
        began_s, reading, reconnects = time.monotonic(), Reading(), 0
        outcome, detail, is_broken = Outcome.WHOLE, "", False
        try:
            reconnects = await self._read(session, which, service_class, reading)
            if reading.tokens != self.expected[which]:
                outcome, detail = Outcome.ALTERED, difference(self.expected[which], reading.tokens)
        except LostError as error:
            outcome, detail = error.outcome, str(error)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            outcome, detail = reading.if_it_ends, f"{type(error).__name__}: {error}"
            is_broken = isinstance(
                error, aiohttp.ClientPayloadError | aiohttp.ClientOSError | aiohttp.ServerDisconnectedError
            )
        return Answer(
            service_class=service_class,
            prompt=which,
            began_s=began_s,
            ended_s=time.monotonic(),
            outcome=outcome,
            detail=detail,
            gap_s=reading.gap_s,
            is_broken=is_broken,
            reconnects=reconnects,
        )

    async def _read(self, session: aiohttp.ClientSession, which: int, service_class: str, reading: Reading) -> int:
        """Into `reading`; how often the connection had to be made anew. LostError when the answer is not whole."""
        headers = {HEADER_CLASS: service_class} if service_class else {}
        for attempt in range(RECONNECTS + 1):
            try:
                async with session.post(f"{self.url}/v1/completions", json=self._body(which), headers=headers) as reply:
                    await _follow(reply, reading)
                break
            except aiohttp.ClientConnectorError:
                if attempt == RECONNECTS:
                    raise
                await asyncio.sleep(RECONNECT_S)
        if not reading.is_done or reading.used != TOKENS[which]:
            shown = f"{reading.used} of {TOKENS[which]} tokens, end marker: {reading.is_done}"
            raise LostError(reading.if_it_ends, f"ended after {shown}")
        return attempt

    def _body(self, which: int) -> dict[str, Any]:
        ids = {"return_token_ids": True} if which in WITH_IDS else {}
        return {
            "model": self.model, "prompt": PROMPTS[which], "max_tokens": TOKENS[which], "ignore_eos": True,
            "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, **ids,
        }  # fmt: skip

    def stop(self) -> None:
        self._stopped.set()


async def _follow(reply: aiohttp.ClientResponse, reading: Reading) -> None:
    if reply.status != 200:
        raise LostError(Outcome.FAILED, f"status {reply.status}: {(await reply.text())[:200]}")
    async for line in reply.content:
        reading.line(line)


def difference(expected: tuple[str, tuple[int, ...]], got: tuple[str, tuple[int, ...]]) -> str:
    """Where two answers part, in characters and in tokens."""
    places = []
    for unit, a, b in (("character", expected[0], got[0]), ("token", expected[1], got[1])):
        at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        places += [f"{unit} {at} of {len(a)} (got {len(b)})"] if a != b else []
    return "another answer from " + ", ".join(places)


@contextmanager
def streaming(
    url: str,
    model: str,
    width: int,
    classes: Sequence[str] = ("",),
    headers: Mapping[str, str] | None = None,
    patience_s: float = ANSWER_TIMEOUT_S,
) -> Iterator[Streams]:
    """`width` streams at any time while the block runs; those that are open at its end are read to theirs."""
    streams = Streams(url, model, classes=classes, headers=headers or {}, patience_s=patience_s)
    asyncio.run(streams.learn())
    thread = threading.Thread(target=lambda: asyncio.run(streams.run(width)))
    thread.start()
    try:
        yield streams
    finally:
        streams.stop()
        thread.join(patience_s + 30)
