"""The router as a process of its own behind real sockets, and what it holds: descriptors, memory, requests."""

import asyncio
import os
import re
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

from tests.control.support import free_port
from tests.fuzz.shots import Shot
from tests.serving.router_fakes import JSON, MANIFEST, Engine, running

ANSWER_S = 20.0
LIMITS = {"head-timeout-s": 1, "body-timeout-s": 1, "keep-alive-s": 2, "stall-timeout-s": 2, "wait-for-endpoint-s": 1}
"""Short, so that stalled clients do not make the run long."""


class Strict(Engine):
    """Refuses what vLLM refuses by its schema: a fake that breaks would be taken for an engine that failed."""

    async def _answer(self, request: web.Request, body: JSON) -> web.StreamResponse:
        self.bodies.clear()
        options, prompt = body.get("stream_options"), body.get("prompt", body.get("messages"))
        if not isinstance(options, dict | None) or not isinstance(prompt, str | list):
            return web.json_response({"error": {"message": "of a wrong type", "code": 400}}, status=400)
        return await super()._answer(request, body)

    async def tokenize(self, request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"count": 3, "tokens": [1, 2, 3]})


@dataclass(kw_only=True)
class Target:
    process: asyncio.subprocess.Process
    port: int
    admin: int
    log: Path
    strange: list[str] = field(default_factory=list)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory_mib(self) -> float:
        """Resident, without pages of files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    async def held(self) -> float:
        """Requests that the router believes to have."""
        async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{self.admin}/metrics") as reply:
            lines = (await reply.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("llmservice_router_in_flight{"))

    async def settled(self, descriptors: int, within_s: float = 15.0) -> int:
        """Descriptors once no more than so many are left, or when the time is over."""
        for _ in range(int(within_s * 10)):
            if self.descriptors() <= descriptors and await self.held() == 0:
                break
            await asyncio.sleep(0.1)
        return self.descriptors()


@asynccontextmanager
async def target(folder: Path) -> AsyncIterator[Target]:
    """A router over a prefill, a decode and a mixed engine, so that every way through it is taken."""
    manifest = folder / "service.yaml"
    manifest.write_text(yaml.safe_dump(MANIFEST))
    engines = {pool: Strict(pool) for pool in ("prefill", "decode", "mixed")}
    async with running(engines.values()):
        port, admin = free_port(), free_port()
        flags = {
            "config": manifest,
            "service": "default/chat",
            "host": "127.0.0.1",
            "port": port,
            "metrics-port": admin,
        }
        given = {**flags, **{pool: engine.url for pool, engine in engines.items()}, **LIMITS}
        command = [sys.executable, "-m", "llmservice_serving.router", *(f"--{k}={v}" for k, v in given.items())]
        log = folder / "router.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        found = Target(process=process, port=port, admin=admin, log=log)
        try:
            await _until_ready(found)
            yield found
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _until_ready(found: Target) -> None:
    async with aiohttp.ClientSession() as client:
        for _ in range(600):
            await asyncio.sleep(0.1)
            assert found.process.returncode is None, found.log.read_text()
            try:
                async with client.get(f"http://127.0.0.1:{found.admin}/readyz") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                continue
    raise AssertionError(f"the router is not ready: {found.log.read_text()}")


async def fire(found: Target, one: Shot) -> bytes:
    """All that the router answers, until it or we close; a router that leaves us waiting is a TimeoutError."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
    except ConnectionError:
        return b""
    try:
        listening = asyncio.create_task(_listen(reader))
        if await _send(writer, one) == "gone":
            listening.cancel()
            return b""
        async with asyncio.timeout(ANSWER_S):
            return await listening
    finally:
        writer.close()


async def _listen(reader: asyncio.StreamReader) -> bytes:
    got = b""
    try:
        while piece := await reader.read(65_536):
            got += piece
    except ConnectionError:
        pass
    return got


async def _send(writer: asyncio.StreamWriter, one: Shot) -> str:
    try:
        for step in one.steps:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif step == "half":
                writer.write_eof()
            else:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return "gone"
    except (ConnectionError, OSError):
        return "closed"
    return "sent"
