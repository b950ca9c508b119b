"""What connections cost that do nothing: thousands of them on one router, its memory, and a request between them.

    python -m bench.router.idle [--connections 10000] [--json FILE]

One router process with API keys on 127.0.0.1, no engine: `GET /v1/models` is answered by the router itself. First the
connections are only open; then each has had one answer and is kept; then all are closed. Memory is the resident set of
the process, with these versions. Both processes need as many files as there are connections: `ulimit -n`.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.router.overhead import MANIFEST, rss_mib
from e2e.engine.local import free_ports

KEY = "sk-bench-0123456789abcdef0123456789abcdef"
ASK = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
AT_ONCE = 200
SAMPLES = 200
Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`answer_*`: a request on a connection of its own while the others do nothing; median of 200."""

    connections: int
    rss_before_mib: float
    rss_open_mib: float
    rss_used_once_mib: float
    rss_closed_mib: float
    kib_per_connection: float
    files_left_over: int
    answer_alone_ms: float
    answer_between_ms: float


@contextmanager
def router() -> Iterator[tuple[int, int]]:
    """Its port and pid."""
    port, metrics_port = free_ports(2)
    with TemporaryDirectory() as folder:
        manifest, keys = Path(folder) / "service.yaml", Path(folder) / "keys"
        manifest.write_text(json.dumps(MANIFEST))
        keys.mkdir()
        (keys / "bench").write_text(json.dumps({"keys": [KEY]}))
        flags = ["--config", str(manifest), "--mixed", "http://127.0.0.1:9", "--host", "127.0.0.1"]
        flags += ["--port", str(port), "--metrics-port", str(metrics_port), "--drain-delay-s", "0.1"]
        flags += ["--keys-dir", str(keys), "--keep-alive-s", "600"]
        process = subprocess.Popen([sys.executable, "-m", "llmservice_serving.router", *flags])
        try:
            yield port, process.pid
        finally:
            process.terminate()
            process.wait()


async def opened(port: int) -> Pipe:
    return await asyncio.open_connection("127.0.0.1", port)


async def ask(pipe: Pipe) -> None:
    reader, writer = pipe
    writer.write(ASK)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    await reader.readexactly(length)


async def answer_ms(port: int) -> float:
    pipe = await opened(port)
    taken: list[float] = []
    for _ in range(SAMPLES):
        began_s = time.perf_counter()
        await ask(pipe)
        taken.append(time.perf_counter() - began_s)
    pipe[1].close()
    return statistics.median(taken) * 1000


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def ready(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                pipe = await opened(port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            await ask(pipe)
            pipe[1].close()
            return


async def measure(port: int, pid: int, count: int) -> Result:
    await ready(port)
    alone = await answer_ms(port)
    await asyncio.sleep(0.5)
    before, files = rss_mib(pid), open_files(pid)
    pipes: list[Pipe] = []
    while len(pipes) < count:
        pipes += await asyncio.gather(*(opened(port) for _ in range(min(AT_ONCE, count - len(pipes)))))
    await asyncio.sleep(1.0)
    is_open = rss_mib(pid)
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*map(ask, pipes[start : start + AT_ONCE]))
    used, between = rss_mib(pid), await answer_ms(port)
    for _, writer in pipes:
        writer.close()
    await asyncio.sleep(2.0)
    return Result(
        connections=count,
        rss_before_mib=round(before, 1),
        rss_open_mib=round(is_open, 1),
        rss_used_once_mib=round(used, 1),
        rss_closed_mib=round(rss_mib(pid), 1),
        kib_per_connection=round((used - before) * 1024 / count, 2),
        files_left_over=open_files(pid) - files,
        answer_alone_ms=round(alone, 2),
        answer_between_ms=round(between, 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.router.idle", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most != resource.RLIM_INFINITY and most < args.connections + 200:
        sys.exit(f"the limit of open files is {most}: raise it (ulimit -Hn) or ask for fewer --connections")
    with router() as (port, pid):
        result = asyncio.run(measure(port, pid, args.connections))
    for name, value in asdict(result).items():
        print(f"{name:24}{value}")
    if args.json:
        args.json.write_text(json.dumps(asdict(result), indent=2) + "\n")


if __name__ == "__main__":
    main()
