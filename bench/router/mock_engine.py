"""A fast engine that computes nothing: raw sockets that speak as much of vLLM's protocol as a router needs.

    python -m bench.router.mock_engine PORT --gap-ms 20

Streams `max_tokens` events, one each gap, with usage and [DONE] at the end; a prefill request (`do_remote_decode`) gets
its KV parameters at once. All streams of one engine share a clock tick, as the decodes of one step do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

import uvloop

KV = {"do_remote_prefill": True, "remote_engine_id": "e", "remote_block_ids": [[1]], "remote_host": "127.0.0.1"}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: "
CHUNKED = HEAD + b"text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
IDS = b',"prompt_token_ids":null,"token_ids":[4711]'
PROMPT_IDS = b',"prompt_token_ids":[%b],"token_ids":[4711]' % b",".join([b"4711"] * 100)


def event(ids: bytes = b"") -> bytes:
    """As vLLM 0.32 writes it; `ids` where the request asks for token ids."""
    return (
        b'data: {"id":"cmpl-0123456789abcdef0123456789abcdef","object":"text_completion","created":1760000000,'
        b'"model":"m","choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null,"stop_reason":null'
        b"%b}]}\n\n" % ids
    )


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


TOKEN, TOKEN_WITH_IDS, FIRST_WITH_IDS = chunk(event()), chunk(event(IDS)), chunk(event(PROMPT_IDS))
LAST = b'"finish_reason":"length"'


class Clock:
    """Calls every open stream once each gap."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self.open: set[Connection] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        at_s = loop.time()
        while True:
            at_s = max(at_s + self._gap_s, loop.time())
            await asyncio.sleep(at_s - loop.time())
            for connection in list(self.open):
                connection.token()


class Connection(asyncio.Protocol):
    def __init__(self, clock: Clock) -> None:
        self._clock, self._buffer, self._left, self._answer_tokens = clock, b"", 0, 0
        self._wants_usage = self._wants_ids = self._has_begun = False
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._clock.open.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in lower else 0
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._answer(head, rest[:length])

    def _answer(self, head: bytes, body: bytes) -> None:
        if not head.startswith(b"POST") or b"/completions" not in head.split(b"\r\n")[0]:
            self._whole(
                {"object": "list", "data": [{"id": "m", "object": "model", "max_model_len": 32768}], "count": 1}
            )
            return
        asked = json.loads(body)
        if (asked.get("kv_transfer_params") or {}).get("do_remote_decode"):
            choice = {"index": 0, "text": " word", "finish_reason": "length"}
            usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
            self._whole({"id": "p", "model": "m", "choices": [choice], "usage": usage, "kv_transfer_params": KV})
            return
        self._left = asked.get("max_tokens", 16)
        self._answer_tokens = self._left
        self._wants_ids, self._has_begun = bool(asked.get("return_token_ids")), False
        self._wants_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        self._transport.write(CHUNKED)
        self._clock.open.add(self)

    def _whole(self, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self._transport.write(HEAD + b"application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def token(self) -> None:
        self._left -= 1
        token = (TOKEN_WITH_IDS if self._has_begun else FIRST_WITH_IDS) if self._wants_ids else TOKEN
        self._has_begun = True
        if self._left > 0:
            self._transport.write(token)
            return
        self._clock.open.discard(self)
        usage = b""
        if self._wants_usage:
            counts = {"prompt_tokens": 100, "completion_tokens": self._answer_tokens}
            counts["total_tokens"] = 100 + self._answer_tokens
            usage = b"data: " + json.dumps({"id": "c", "choices": [], "usage": counts}, separators=(",", ":")).encode()
            usage = chunk(usage + b"\n\n")
        last = chunk(event(IDS if self._wants_ids else b"").replace(b'"finish_reason":null', LAST))
        self._transport.write(last + usage + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def serve(port: int, gap_s: float) -> None:
    clock = Clock(gap_s)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(clock), "127.0.0.1", port, backlog=4096)
    async with server:
        await clock.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--gap-ms", type=float, default=20.0)
    args = parser.parse_args()
    uvloop.run(serve(args.port, args.gap_ms / 1000))


if __name__ == "__main__":
    main()
