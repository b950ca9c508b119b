"""The router's memory: with thousands of open streams at once, and over hundreds of thousands of short requests.

    python -m bench.router.memory [--streams 10000] [--requests 200000] [--write]

One router process, resume on, which keeps the tokens of each answer; two engines that compute nothing
(bench/router/mock_engine.py). Open streams: each has had its first tokens and waits for more, a token each 5 s. Then,
with a router of its own, answers of 4 tokens on 100 connections until so many have ended. RSS, and open descriptors
once all connections are closed: a leak of one per request would be seen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.router import speed
from bench.router.idle import open_files
from bench.router.load import DATA, request
from bench.router.overhead import rss_mib
from e2e.engine import local

RESULTS = Path(__file__).with_name("MEMORY.md")
AT_ONCE, PARTS = 200, 10
FLAGS = ("--resume", "on", "--step-tokens", "100000000")
"""All prompts at once: what is measured is not the queue."""


class Reader(asyncio.Protocol):
    """Asks once and counts what comes."""

    def __init__(self, text: bytes) -> None:
        self._text, self.events = text, 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._text)

    def data_received(self, data: bytes) -> None:
        self.events += data.count(DATA)


@contextmanager
def engines(gap_ms: float) -> Iterator[list[str]]:
    ports = local.free_ports(2)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    with ExitStack() as stack:
        for port, url in zip(ports, urls, strict=True):
            command = [speed.PYTHON, "-m", "bench.router.mock_engine", str(port), "--gap-ms", str(gap_ms)]
            stack.enter_context(speed.process(command, f"{url}/v1/models"))
        yield urls


async def hold(url: str, pid: int, count: int) -> list[str]:
    loop, text = asyncio.get_running_loop(), request("x", 1000, "word " * 100)
    port = int(url.rpartition(":")[2])
    before, readers = rss_mib(pid), []
    for start in range(0, count, AT_ONCE):
        made = (
            loop.create_connection(lambda: Reader(text), "127.0.0.1", port) for _ in range(min(AT_ONCE, count - start))
        )
        readers += [reader for _, reader in await asyncio.gather(*made)]
        print(f"\r{len(readers)} streams", end="", file=sys.stderr, flush=True)
    began_s = time.monotonic()
    while min(reader.events for reader in readers) < 2 and time.monotonic() < began_s + 120:
        await asyncio.sleep(0.5)
    silent = sum(reader.events < 2 for reader in readers)
    is_open, files = rss_mib(pid), open_files(pid)
    for reader in readers:
        reader.transport.close()
    await asyncio.sleep(5.0)
    return [
        f"| router without a request | {before:.0f} MiB |",
        f"| {len(readers):,} open streams, {files:,} descriptors, {silent} without two tokens | {is_open:.0f} MiB |",
        f"| per stream | {(is_open - before) * 1024 / len(readers):.1f} KiB |",
        f"| all closed, {open_files(pid)} descriptors | {rss_mib(pid):.0f} MiB |",
    ]


def many(url: str, pid: int, requests: int) -> Iterator[str]:
    speed.load(url, 100, 5.0)
    done = failed = 0
    yield row(pid, done, failed)
    for part in range(1, PARTS + 1):
        while done < requests * part / PARTS:
            seen = speed.load(url, 100, 10.0)
            done, failed = done + seen["requests"], failed + seen["failed"]
        yield row(pid, done, failed)


def row(pid: int, done: int, failed: int) -> str:
    time.sleep(6.0)  # connections to engines are kept for two seconds, and looked through every two
    return f"| {done:,} | {failed} | {rss_mib(pid):.1f} | {open_files(pid)} |"


def measure(streams: int, requests: int) -> Iterator[str]:
    yield "| open streams | RSS |\n| --- | ---: |"
    with engines(5000.0) as urls, speed.router(speed.OURS, urls, False, FLAGS) as (url, pid):
        yield from asyncio.run(hold(url, pid, streams))
    yield "\n| requests ended | failed | RSS, MiB | descriptors |\n| ---: | ---: | ---: | ---: |"
    speed.TOKENS = 4
    with engines(1.0) as urls, speed.router(speed.OURS, urls, False, FLAGS) as (url, pid):
        yield from many(url, pid, requests)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--write", action="store_true", help=f"keep the tables in {RESULTS.name}")
    args = parser.parse_args(argv)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most != resource.RLIM_INFINITY and most < 2 * args.streams + 100:
        sys.exit(f"the limit of open files is {most}: raise it (ulimit -Hn) or ask for fewer --streams")
    lines = []
    for line in measure(args.streams, args.requests):
        print(line, flush=True)
        lines.append(line)
    if args.write:
        text = (__doc__ or "").strip()
        RESULTS.write_text("\n".join([f"# The router's memory\n\n{text}\n\n{os.cpu_count()} cores.\n", *lines, ""]))


if __name__ == "__main__":
    main()
