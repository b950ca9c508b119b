"""Clients that send too much, too slowly or no HTTP, that do not read, and that only hold a connection."""

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from llmservice_core import metric_names as names
from llmservice_serving.router.settings import Settings
from tests.serving.router_fakes import Engine, Router, router, until
from tests.serving.router_keys import ACME, bearer, folder

ASK = {"model": "chat", "prompt": "hello", "max_tokens": 5}
Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connection(r: Router) -> AsyncIterator[Pipe]:
    reader, writer = await asyncio.open_connection("127.0.0.1", r.doors.api)
    try:
        yield reader, writer
    finally:
        writer.close()


def head(length: int, *more: str, path: str = "/v1/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any], bytes]:
    """Status, the error in it, and the head."""
    async with asyncio.timeout(5):
        top = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in top.lower().split(b"\r\n") if b"content-length" in line)
        body = json.loads(await reader.readexactly(length))
    return int(top.split()[1]), body.get("error", {}), top


async def denied(r: Router, reason: str) -> float:
    return await r.metric(names.DENIED, reason=reason)


async def test_a_large_body_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async with router(tmp_path, mixed=[Engine("m")], max_body_bytes=1000) as r, connection(r) as (reader, writer):
        writer.write(head(10**12))
        status, error, _ = await answer(reader)
        assert (status, error["code"]) == (413, "body_too_large")
        assert await denied(r, "body_too_large") == 1


async def test_a_large_body_without_a_length_is_refused_on_the_way(tmp_path: Path) -> None:
    async with router(tmp_path, mixed=[Engine("m")], max_body_bytes=1000) as r, connection(r) as (reader, writer):
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            writer.write(b"64\r\n" + b"x" * 100 + b"\r\n")
        status, error, _ = await answer(reader)
        assert (status, error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("said", ["Content-Encoding: gzip", "Content-Encoding: deflate"])
async def test_a_body_that_is_not_packed_as_it_says_is_400_and_no_fault_of_ours(
    tmp_path: Path, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was a 500 with a traceback in the log, which anybody could cause."""
    async with router(tmp_path, mixed=[Engine("m")]) as r, connection(r) as (reader, writer):
        body = json.dumps(ASK).encode()
        writer.write(head(len(body), said) + body)
        status, error, _ = await answer(reader)
        assert (status, error["type"]) == (400, "invalid_request_error")
        assert "not encoded as its headers say" in error["message"]
        assert await r.metric(names.REQUESTS, outcome="failed") == 0
    assert "fault of the router" not in caplog.text


async def test_who_waits_for_a_word_before_his_body_gets_it_or_the_refusal(tmp_path: Path) -> None:
    keys = str(folder(tmp_path))
    async with router(tmp_path, mixed=[Engine("m")], max_body_bytes=1000, keys_dir=keys) as r:
        for key, length, expected in ((None, 9, 401), (ACME, 2000, 413)):
            async with connection(r) as (reader, writer):
                known = [f"Authorization: Bearer {key}"] if key else []
                writer.write(head(length, "Expect: 100-continue", *known))
                assert (await answer(reader))[0] == expected
        async with connection(r) as (reader, writer):
            body = json.dumps(ASK).encode()
            writer.write(head(len(body), "Expect: 100-continue", f"Authorization: Bearer {ACME}"))
            assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
            writer.write(body)
            assert (await answer(reader))[0] == 200


async def test_a_body_that_does_not_come_is_408(tmp_path: Path) -> None:
    m = Engine("m")
    async with router(tmp_path, mixed=[m], body_timeout_s=0.2) as r, connection(r) as (reader, writer):
        writer.write(head(1000) + b'{"model"')
        status, error, _ = await answer(reader)
        assert (status, error["code"]) == (408, "request_timeout")
        assert await denied(r, "slow_client") == 1
        await until(lambda: not r.shared.running)
    assert m.bodies == []


async def test_a_head_that_dribbles_is_408_and_closed(tmp_path: Path) -> None:
    async with router(tmp_path, mixed=[Engine("m")], head_timeout_s=0.3) as r, connection(r) as (reader, writer):
        began_s = time.monotonic()
        dribble = asyncio.create_task(slowly(writer, b"POST /v1/completions HTTP/1.1\r\nX-A: " + b"a" * 500))
        status, error, _ = await answer(reader)
        dribble.cancel()
        assert (status, error["type"]) == (408, "invalid_request_error")
        assert 0.25 < time.monotonic() - began_s < 2
        assert await reader.read() == b"", "closed"
        assert await denied(r, "slow_client") == 1


async def slowly(writer: asyncio.StreamWriter, text: bytes) -> None:
    for i in range(len(text)):
        writer.write(text[i : i + 1])
        await asyncio.sleep(0.02)


async def test_a_second_head_on_a_kept_connection_has_its_own_time(tmp_path: Path) -> None:
    body = json.dumps(ASK).encode()
    async with router(tmp_path, mixed=[Engine("m")], head_timeout_s=0.3) as r, connection(r) as (reader, writer):
        for _ in range(2):
            writer.write(head(len(body)))
            writer.write(body)
            assert (await answer(reader))[0] == 200
            await asyncio.sleep(0.4)  # idle is not slow
        writer.write(b"POST /v1")
        assert (await answer(reader))[0] == 408


async def test_a_slow_but_honest_body_is_no_head(tmp_path: Path) -> None:
    body = json.dumps({**ASK, "prompt": "x" * 50_000}).encode()
    async with router(tmp_path, mixed=[Engine("m")], head_timeout_s=0.2, max_head_bytes=4096) as r:
        for pieces in (1, 8):
            async with connection(r) as (reader, writer):
                writer.write(head(len(body)))
                for i in range(pieces):
                    size = -(-len(body) // pieces)
                    writer.write(body[i * size : (i + 1) * size])
                    await asyncio.sleep(0.4 / pieces)
                assert (await answer(reader))[0] == 200


@pytest.mark.parametrize(
    ("name", "lines"),
    [("one line", ["X-A: " + "a" * 9000]), ("many lines", [f"X-{i}: {'a' * 910}" for i in range(9)])],
)
async def test_a_large_head_is_431(tmp_path: Path, name: str, lines: list[str]) -> None:
    async with router(tmp_path, mixed=[Engine("m")], max_head_bytes=8192) as r, connection(r) as (reader, writer):
        for piece in ("POST /v1/completions HTTP/1.1\r\nHost: x\r\n", *(f"{line}\r\n" for line in lines)):
            writer.write(piece.encode())
            await writer.drain()
            await asyncio.sleep(0.001)
        status, error, _ = await answer(reader)
        assert (status, error["type"]) == (431, "invalid_request_error"), name
        assert await denied(r, "bad_head") == 1


@pytest.mark.parametrize(
    "sent",
    [
        f"POST /v1/completions HTTP/1.1\r\nAuthorization : Bearer {ACME}\r\n\r\n",
        f"POST /v1/completions HTTP/1.1\r\nAuthorization: Bearer {ACME}{'x' * 9000}\r\n\r\n",
        f"{ACME}\r\n\r\n",
        f"POST /v1/completions?key={ACME} HTTP/9.9\r\n\r\n",
        f"POST /v1/completions HTTP/1.1\r\nContent-Length: {ACME}\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + ACME + "\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_quoted_nowhere(
    tmp_path: Path, sent: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with router(tmp_path, mixed=[Engine("m")]) as r, connection(r) as (reader, writer):
        writer.write(sent.encode("latin-1"))
        status, error, top = await answer(reader)
        assert status in (400, 431)
        assert await denied(r, "bad_head") == 1
    logged = [record.getMessage() + str(record.exc_info) for record in caplog.records]
    assert not [text for text in (str(error), str(top), *logged) if ACME in text]


def test_the_page_tells_the_limits_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs/access.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `LLMSERVICE_ROUTER_")]
    told = {row[1].strip(" `").removeprefix("LLMSERVICE_ROUTER_").lower(): float(row[2]) for row in rows}
    assert len(told) == 6
    assert told == {name: getattr(Settings(), name) for name in told}


async def test_idle_connections_are_closed_in_the_end(tmp_path: Path) -> None:
    async with router(tmp_path, mixed=[Engine("m")], keep_alive_s=0.3) as r, connection(r) as (reader, _):
        async with asyncio.timeout(3):
            assert await reader.read() == b""


async def test_a_slow_reader_slows_its_engine_down_and_is_cut_when_it_stops(tmp_path: Path) -> None:
    """What a client does not read stays in the engine: buffers on the way are bounded."""
    m = Engine("m")
    m._stream = flood(m)  # type: ignore[method-assign]
    async with router(tmp_path, mixed=[m], stall_timeout_s=2.0) as r:
        body = json.dumps({**ASK, "stream": True}).encode()
        with socket.socket() as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", r.doors.api))
            await loop.sock_sendall(client, head(len(body)) + body)
            await asyncio.sleep(1.0)
            full = len(m.bodies)
            await asyncio.sleep(0.5)
            assert len(m.bodies) == full > 1, "nothing moves any more"
            await until(lambda: m.closed, 5)
        await until(lambda: not r.shared.running)
        assert await r.metric(names.REQUESTS, outcome="client_gone") == 1
    assert full * len(CHUNK) < 64 << 20, "most of it in the kernel's sockets"


CHUNK = b'data: {"choices":[{"text":"' + b"x" * 16384 + b'"}]}\n\n'


def flood(engine: Engine) -> Any:
    """An engine that writes as fast as it is read; each chunk is noted in `bodies`."""

    async def stream(request: web.Request, _: Any) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(CHUNK)
            engine.bodies.append({})

    return stream


async def test_many_idle_connections_hinder_nobody_and_leave_nothing(tmp_path: Path) -> None:
    """The whole with 10,000 of them and its memory is bench/router/idle.py."""
    keys = str(folder(tmp_path))
    async with router(tmp_path, mixed=[Engine("m")], keys_dir=keys) as r:
        files = open_files()
        pipes = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", r.doors.api) for _ in range(500)))
        async with r.post(ASK, headers=bearer(ACME)) as reply:
            assert reply.status == 200
        for _, writer in pipes:
            writer.close()
        await until(lambda: open_files() <= files + 4)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
