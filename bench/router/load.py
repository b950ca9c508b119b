"""A load of streams over raw sockets, cheap enough that the router and not this client is what is measured.

    python -m bench.router.load URL --streams 200 --tokens 100 --seconds 20      (prints one line of JSON)

Closed loop: each of so many connections asks, reads its answer to the end, and asks again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any
from urllib.parse import urlsplit

import uvloop

DONE, DATA, END = b"data: [DONE]", b"data: ", b"0\r\n\r\n"


class Asker(asyncio.Protocol):
    """One connection. `seen` collects (seconds to first token, tokens, whole)."""

    def __init__(self, request: bytes, seen: list[tuple[float, int, bool]], closed: asyncio.Event) -> None:
        self._request, self._seen, self._closed = request, seen, closed
        self._transport: Any = None
        self._began_s = self._first_s = 0.0
        self._tail, self._events, self._is_done, self.may_ask = b"", 0, False, True

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._began_s, self._first_s, self._tail, self._events = time.perf_counter(), 0.0, b"", 0
        self._is_done = False
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        text, before = self._tail + data, self._tail.count(DATA)
        self._tail = text[-11:]
        found = text.count(DATA) - before
        if found and not self._first_s:
            self._first_s = time.perf_counter() - self._began_s
        self._events += found
        self._is_done = self._is_done or DONE in text
        if self._is_done and text.endswith(END):
            self._end(is_whole=True)
        elif not self._events and b"\r\n\r\n" in text and b" 200 " not in text[:16]:
            self._end(is_whole=False)

    def _end(self, *, is_whole: bool) -> None:
        self._seen.append((self._first_s, self._events, is_whole))
        if self.may_ask:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()


def request(host: str, tokens: int, prompt: str) -> bytes:
    body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": tokens, "stream": True, "temperature": 0}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


async def run(url: str, streams: int, tokens: int, seconds: float) -> dict[str, Any]:
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    seen: list[tuple[float, int, bool]] = []
    askers: list[Asker] = []
    ends: list[asyncio.Event] = []
    text = request(parts.netloc, tokens, "word " * 100)
    for number in range(streams):
        ends.append(asyncio.Event())
        made = await loop.create_connection(
            lambda end=ends[-1]: Asker(text, seen, end),  # type: ignore[misc]
            parts.hostname,
            parts.port,
        )
        askers.append(made[1])
        if number % max(1, streams // 50) == 0:
            await asyncio.sleep(0.02)
    began_s = time.perf_counter()
    await asyncio.sleep(seconds)
    for asker in askers:
        asker.may_ask = False
    await asyncio.gather(*(asyncio.wait_for(end.wait(), 600) for end in ends), return_exceptions=True)
    whole = [s for s in seen if s[2]]
    firsts = sorted(s[0] for s in whole)
    return {
        "requests": len(seen),
        "failed": len(seen) - len(whole),
        "tokens": sum(s[1] - 1 for s in whole),
        "seconds": time.perf_counter() - began_s,
        "ttft_ms": {q: 1000 * firsts[min(len(firsts) - 1, int(q * len(firsts)))] for q in (0.5, 0.9, 0.99)}
        if firsts
        else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    print(json.dumps(uvloop.run(run(args.url, args.streams, args.tokens, args.seconds))))


if __name__ == "__main__":
    main()
