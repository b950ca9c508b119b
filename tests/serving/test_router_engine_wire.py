"""Connections to engines: kept, dropped, cut, silent; and a client that is slower than its engine."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from llmservice_core.model import Pool
from llmservice_core.routing import Endpoint
from llmservice_serving.router import engines as engines_module
from llmservice_serving.router.engine_wire import Wire
from llmservice_serving.router.engines import Engines
from llmservice_serving.router.errors import EngineFailure, Passed
from llmservice_serving.router.settings import Settings
from tests.serving.router_fakes import JSON, Engine, router, until

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WHOLE = OK + b'Content-Length: 8\r\n\r\n{"a": 1}'
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def asked(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


@asynccontextmanager
async def serving(serve: Serve, **settings: float) -> AsyncIterator[tuple[Engines, Endpoint]]:
    """`serve` is run for each connection, which is closed when it returns."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    engines = Engines(Settings(**settings))  # type: ignore[arg-type]
    try:
        yield engines, Endpoint(name="e", url=url, pool=Pool.MIXED, ready=True)
    finally:
        await engines.close()
        server.close()


async def post(engines: Engines, endpoint: Endpoint, timeout_s: float = 2.0) -> dict[str, object]:
    return await engines.post(endpoint, "/v1/completions", {"a": 1}, "id-1", timeout_s)


async def test_a_connection_is_used_again_and_says_what_it_must() -> None:
    seen: list[bytes] = []
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            seen.append(await asked(reader))
            writer.write(WHOLE)

    async with serving(serve) as (engines, endpoint):
        assert [await post(engines, endpoint) for _ in range(3)] == [{"a": 1}] * 3
    assert connections == 1
    host = urlsplit(endpoint.url).netloc.encode()
    assert seen[0].startswith(b"POST /v1/completions HTTP/1.1\r\nHost: " + host + b"\r\n")
    assert b"X-Request-Id: id-1\r\n" in seen[0]
    assert seen[0].endswith(b'Content-Length: 7\r\n\r\n{"a":1}')


async def test_a_connection_that_its_engine_closed_meanwhile_is_not_used_again() -> None:
    """No request is written into a connection that is known to be closed, so none is lost that way."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(WHOLE)

    async with serving(serve) as (engines, endpoint):
        for _ in range(3):
            assert await post(engines, endpoint) == {"a": 1}
            await asyncio.sleep(0.02)


async def test_a_connection_is_not_kept_longer_than_engines_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "KEEP_ALIVE_S", 0.1)
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(WHOLE)
        assert await reader.read() == b""
        ended.set()

    async with serving(serve) as (engines, endpoint):
        await post(engines, endpoint)
        assert not ended.is_set()
        await asyncio.wait_for(ended.wait(), 1)


async def test_what_an_engine_says_unasked_answers_nobody() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await asked(reader)
        writer.write(WHOLE)
        await asyncio.sleep(0.02)
        writer.write(OK + b'Content-Length: 8\r\n\r\n{"b": 2}')
        await reader.read()

    async with serving(serve) as (engines, endpoint):
        for _ in range(2):
            assert await post(engines, endpoint) == {"a": 1}
            await asyncio.sleep(0.05)
    assert connections == 2


@pytest.mark.parametrize(
    ("sent", "reason", "is_down"),
    [
        (b"", "disconnect", True),
        (b"not HTTP at all\r\n\r\n", "disconnect", True),
        (OK + b"Content-Length: 8\r\n\r\n{", "disconnect", True),
        (CHUNKED + b"1\r\n{\r\n", "disconnect", True),
        (CHUNKED + b"zz\r\n{\r\n", "disconnect", True),
        (OK + b"Content-Length: 2\r\n\r\n[]", "bad_answer", False),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "http_503", True),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", "http_500", False),
    ],
)
async def test_answers_that_are_none(sent: bytes, reason: str, is_down: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(sent)

    async with serving(serve) as (engines, endpoint):
        with pytest.raises(EngineFailure) as failure:
            await post(engines, endpoint)
    assert (failure.value.reason, failure.value.is_down) == (reason, is_down)


async def test_a_refusal_of_the_engine_is_the_client_s() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b'HTTP/1.1 400 Bad\r\nContent-Length: 28\r\n\r\n{"error":{"message":"long"}}')

    async with serving(serve) as (engines, endpoint):
        with pytest.raises(Passed) as passed:
            await post(engines, endpoint)
    assert (passed.value.status, passed.value.message) == (400, "long")


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = Endpoint(name="e", url=f"http://127.0.0.1:{taken.getsockname()[1]}", pool=Pool.MIXED)
        engines = Engines(Settings())
        with pytest.raises(EngineFailure) as failure:
            await post(engines, endpoint)
        await engines.close()
    assert (failure.value.reason, failure.value.had_request) == ("connect", False)


async def test_a_whole_answer_has_one_time_limit_however_it_trickles() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(CHUNKED)
        while True:
            writer.write(b"1\r\n \r\n")
            await asyncio.sleep(0.02)

    async with serving(serve) as (engines, endpoint):
        with pytest.raises(EngineFailure) as failure:
            await asyncio.wait_for(post(engines, endpoint, timeout_s=0.2), 1)
    assert failure.value.reason == "timeout"


async def test_silence_is_measured_from_the_last_byte() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(CHUNKED)
        for _ in range(3):
            await asyncio.sleep(0.6)
            writer.write(b"1\r\nx\r\n")
        await reader.read()

    async with serving(serve) as (engines, endpoint):
        seen: list[bytes] = []

        async def read() -> None:
            async with engines.stream(endpoint, "/", {}, "id", 1.0) as wire:
                while part := await wire.read():
                    seen.append(part)

        began_s = asyncio.get_running_loop().time()
        with pytest.raises(EngineFailure) as failure:
            await read()
        assert b"".join(seen) == b"xxx"
        assert asyncio.get_running_loop().time() - began_s > 2.75
    assert failure.value.reason == "timeout"


async def test_leaving_a_stream_closes_its_connection() -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(CHUNKED + b"1\r\nx\r\n")
        with suppress(ConnectionError):
            await reader.read()
        ended.set()

    async with serving(serve) as (engines, endpoint):
        async with engines.stream(endpoint, "/", {}, "id", 5.0) as wire:
            assert await wire.read() == b"x"
        await asyncio.wait_for(ended.wait(), 1)


class Refusing:
    """A sink that wants nothing more after the first chunk."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def frame(self, raw: bytes, now_s: float) -> bool:
        self.seen.append(raw)
        raise ZeroDivisionError

    def feed(self, data: bytes, now_s: float) -> None:
        self.seen.append(data)


class Transport(asyncio.Transport):
    is_aborted = False

    def write(self, data: object) -> None:
        """To nobody."""

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


async def test_after_an_error_nothing_more_is_passed_on() -> None:
    """What comes from an engine that computes other tokens must not reach the client behind the error."""
    wire, sink, transport = Wire(set()), Refusing(), Transport()
    wire.connection_made(transport)
    wire.send(b"", 5.0)
    wire.data_received(CHUNKED)
    pouring = asyncio.create_task(wire.pour(sink))
    await asyncio.sleep(0)
    for data in (b"1\r\na\r\n", b"1\r\nb\r\n"):
        wire.data_received(data)
    with pytest.raises(ZeroDivisionError):
        await pouring
    assert sink.seen == [b"1\r\na\r\n"]
    assert transport.is_aborted
    assert not wire.may_be_kept


EVENT = b'data: {"id":"x","choices":[{"index":0,"text":"' + b"w" * 3000 + b'","finish_reason":null}]}\n\n'


@dataclass
class Flood(Engine):
    """Streams as fast as it is read."""

    sent: int = 0

    async def _stream(self, request: web.Request, body: JSON) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(self.tokens):
            await response.write(EVENT)
            self.sent += len(EVENT)
        await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def slow_client(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Has asked for a stream and reads nothing by itself."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", urlsplit(url).port))
    reader, writer = await asyncio.open_connection(sock=made, limit=1 << 14)
    body = b'{"model": "chat", "prompt": "a", "stream": true}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(body) + body)
    try:
        yield reader, writer
    finally:
        writer.close()


async def still(flood: Flood) -> int:
    """What it could send until nobody took more."""
    while True:
        before = flood.sent
        await asyncio.sleep(0.2)
        if flood.sent == before > 0:
            return before


@pytest.mark.parametrize("resume", ["off", "on"])
async def test_a_slow_client_slows_its_engine_and_then_gets_everything(tmp_path: Path, resume: str) -> None:
    flood = Flood("m", tokens=20_000)
    async with router(tmp_path, mixed=[flood], resume=resume) as r, slow_client(r.url) as (reader, _):
        assert await asyncio.wait_for(still(flood), 10) < 20_000_000  # of 60 MB; the kernel's buffers hold a part
        got = 0
        while data := await reader.read(1 << 20):
            got += data.count(b'"text"')
            last = data
        assert last.endswith(b"0\r\n\r\n")
        assert 19_900 < got <= 20_000, "some are cut by the reads of this test"
        await until(lambda: not r.shared.running)


async def test_a_client_that_takes_nothing_is_cut_off_and_its_engine_told(tmp_path: Path) -> None:
    flood = Flood("m", tokens=20_000)
    async with router(tmp_path, mixed=[flood], stall_timeout_s=0.3, resume="off") as r, slow_client(r.url):
        await until(lambda: flood.closed == 1, timeout_s=5)
        assert await r.metric("llmservice_router_requests_total", outcome="client_gone") == 1


async def test_a_slow_client_is_not_its_engine_s_silence(tmp_path: Path) -> None:
    flood, text = Flood("m", tokens=20_000), b""
    made = router(tmp_path, mixed=[flood], idle_timeout_s=1.5, resume="off", spec=STRICT)
    async with made as r, slow_client(r.url) as (reader, _):
        await asyncio.wait_for(still(flood), 10)
        await asyncio.sleep(3.5)
        while data := await reader.read(1 << 20):
            text = text[-200:] + data
        assert b"[DONE]" in text


STRICT = {
    "classes": [
        {
            "name": "only",
            "default": True,
            "ttft": {"target": "100ms", "percentile": 95},
            "tbt": {"target": "50ms", "percentile": 99},
        }
    ]
}
"""Else the patience of the class would be what is waited for."""
