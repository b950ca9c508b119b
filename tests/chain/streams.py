"""Streams without a pause through one service, each held against the answer that the same prompt had in quiet times."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp

TOKENS = (90, 140, 200, 300)
"""Of the answers. Different, so that pods never fall idle all at once."""
PROMPTS = tuple(f"tell me story number {i}, and let it be a long one " * 4 for i in range(len(TOKENS)))


@dataclass(slots=True)
class Streams:
    """`lost`: what failed, came short or came different, in words."""

    url: str
    model: str
    patience_s: float = 120.0
    whole: int = 0
    lost: list[str] = field(default_factory=list)
    expected: dict[int, str] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)

    async def one(self, session: aiohttp.ClientSession, which: int) -> str:
        body = {
            "model": self.model, "prompt": PROMPTS[which], "max_tokens": TOKENS[which], "ignore_eos": True,
            "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        parts, used, is_done = [], 0, False
        async with session.post(f"{self.url}/v1/completions", json=body) as reply:
            if reply.status != 200:
                raise ValueError(f"status {reply.status}: {(await reply.text())[:200]}")
            async for line in reply.content:
                if not line.startswith(b"data: "):
                    continue
                if line.strip() == b"data: [DONE]":
                    is_done = True
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    raise ValueError(f"error event: {event['error'].get('message')}")
                parts += [choice["text"] for choice in event.get("choices", [])]
                used = (event.get("usage") or {}).get("completion_tokens", used)
        if not is_done or used != TOKENS[which]:
            raise ValueError(f"cut after {used} of {TOKENS[which]} tokens, done: {is_done}")
        return "".join(parts)

    async def learn(self) -> None:
        """One after the other, before anything happens."""
        async with aiohttp.ClientSession() as session:
            self.expected = {i: await self.one(session, i) for i in range(len(TOKENS))}

    async def run(self, width: int) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self.patience_s)) as session:
            await asyncio.gather(*(self._ask_on(session, i) for i in range(width)))

    async def _ask_on(self, session: aiohttp.ClientSession, which: int) -> None:
        while not self._stopped.is_set():
            which = (which + 1) % len(TOKENS)
            try:
                text = await self.one(session, which)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                self.lost.append(f"{type(error).__name__}: {error}")
                continue
            if text == self.expected[which]:
                self.whole += 1
            else:
                self.lost.append(f"prompt {which} got another answer")

    def stop(self) -> None:
        self._stopped.set()


@contextmanager
def streaming(url: str, model: str, width: int, patience_s: float = 120.0) -> Iterator[Streams]:
    """`width` streams at any time while the block runs; those that are open at its end are read to theirs."""
    streams = Streams(url, model, patience_s)
    asyncio.run(streams.learn())
    thread = threading.Thread(target=lambda: asyncio.run(streams.run(width)))
    thread.start()
    try:
        yield streams
    finally:
        streams.stop()
        thread.join(patience_s + 30)
