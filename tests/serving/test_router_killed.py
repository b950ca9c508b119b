"""kill -9 of one of two router processes before the same engines: what its clients see, and what the others' do not."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from e2e.engine import local
from tests.serving.resume_fakes import TokenEngine, seen
from tests.serving.router_engines import answers
from tests.serving.router_fakes import MANIFEST, events, running, until

BODY: dict[str, Any] = {"model": "chat", "prompt": [7, 8], "max_tokens": 100, "temperature": 0, "stream": True}


@asynccontextmanager
async def process(folder: Path, engine: str) -> AsyncIterator[tuple[subprocess.Popen[bytes], int]]:
    """A router as a user starts it; its process and port."""
    manifest = folder / "service.yaml"
    manifest.write_text(yaml.safe_dump(MANIFEST))
    port, metrics_port = local.free_ports(2)
    flags = ["--config", str(manifest), "--service", "default/chat", "--mixed", engine, "--host", "127.0.0.1"]
    flags += ["--port", str(port), "--metrics-port", str(metrics_port), "--drain-delay-s", "0"]
    started = subprocess.Popen([sys.executable, "-m", "llmservice_serving.router", *flags])  # noqa: ASYNC220
    try:
        await until(lambda: answers(f"http://127.0.0.1:{metrics_port}/readyz"), 30)
        yield started, port
    finally:
        started.kill()
        started.wait()


def request_of(body: str) -> bytes:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@pytest.mark.timeout(90)
async def test_its_own_streams_end_with_a_closed_connection_and_the_others_go_on(tmp_path: Path) -> None:
    engine = TokenEngine("m", gap_s=0.02)
    async with running([engine]), process(tmp_path, engine.url) as (dead, port), process(tmp_path, engine.url) as two:
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(raw, request_of(json.dumps(BODY)))
            got = await loop.sock_recv(raw, 1 << 16)
            async with aiohttp.ClientSession() as client:
                asking = asyncio.create_task(client.post(f"http://127.0.0.1:{two[1]}/v1/completions", json=BODY))
                await until(lambda: len(engine.bodies) == 2)
                dead.kill()
                async with asyncio.timeout(5):
                    while part := await loop.sock_recv(raw, 1 << 16):  # a reset would raise
                        got += part
                async with await asking as reply:
                    other = seen(await events(reply))
        assert b"200 OK" in got
        assert b'"text"' in got
        assert b"[DONE]" not in got
        assert not got.endswith(b"0\r\n\r\n"), "the answer is visibly not whole"
        assert (other["errors"], other["finish"]) == ([], ["length"])
        await until(lambda: engine.closed == 1)
