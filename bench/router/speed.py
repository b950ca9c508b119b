"""The router's speed beside vllm-router 0.1.17 (Rust): the same mock engines, the same load, in turns, in one run.

    python -m bench.router.speed [--streams 100 400] [--seconds 15] [--rounds 3] [--write]

Two engines that compute nothing stream a token each 20 ms to every stream (bench/router/mock_engine.py); plain: both
mixed, P/D: one prefill, one decode. The load asks again as soon as an answer of 100 tokens ends. `us/token`: CPU time
of the router's process, its threads included, over the tokens that went through; tokens/s per core is its inverse. So
it does not depend on what else the machine does; added TTFT, the difference to the same load without a router, does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from bench.router.overhead import MANIFEST, cpu_s, rss_mib
from e2e.cluster.paths import cache
from e2e.engine import env, local

RESULTS = Path(__file__).with_name("SPEED.md")
LOCK = Path(__file__).with_name("requirements-vllm-router.txt")
PYTHON = sys.executable
GAP_MS, TOKENS = 20.0, 100
OURS, THEIRS = "ours", "vllm-router 0.1.17"
LIMITS = """
## What limits it

`perf record -e cpu-clock` of our router's process, plain, resume off, 200 streams of 100 tokens, 22 us/token
(2026-11-25, a busy machine):

| share | where |
| ---: | --- |
| 44 % | kernel: `write` 22 (the loopback's receiving side included), `read` 14, `epoll_pwait` 2, switches of tasks |
| 47 % | CPython: what a request costs once (about 450 us, a fifth of all at 100 tokens), and the path of a token |
| 5 % | uvloop |
| 4 % | libc, and aiohttp's parser of requests |

Of vllm-router's process, 100 streams of 200 tokens: kernel 70 %, its own code 27 %. The kernel's part per token is the
same in both: one read and one write. A tunnel of two uvloop protocols that looks at nothing takes 10 to 11 us per token
here, so one process of CPython has room for 2 to 4 us of work per token beside a router in Rust. The path of a token is
0.9 us of Python where all of it is in the CPU's cache (one comparison, one clock, one bucket, one write), more where it
is not; above that is what a request costs once: queue, route, JSON, metrics and aiohttp's server.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of one router under one load."""

    cpu_us_per_token: float
    cpu_ms_per_request: float
    ttft_ms: dict[str, float]
    failed: int
    rss_mib: float


def peer() -> Path:
    """The other router's program, installed once into an environment of its own."""
    home = cache() / "vllm-router" / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:8]
    if not (home / ".complete").exists():
        subprocess.run([env.uv(), "venv", "-q", "--clear", "--python", env.PYTHON, str(home)], check=True)
        install = [env.uv(), "pip", "install", "-q", "--python", str(home), "--require-hashes", "-r", str(LOCK)]
        subprocess.run(install, check=True)
        (home / ".complete").write_text("")
    return home / "bin" / "vllm-router"


@contextmanager
def process(command: Sequence[str], url: str) -> Iterator[int]:
    """A program that serves `url`, until the block ends; its pid."""
    with TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        started = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait(url, started, Path(folder) / "log")
            yield started.pid
        finally:
            started.terminate()
            started.wait()


def wait(url: str, started: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s and started.poll() is None:
        try:
            with urlopen(url, timeout=2) as reply:
                if reply.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer:\n{log.read_text(errors='replace')[-2000:]}")


def our_command(port: int, folder: str, engines: Sequence[str], is_split: bool, flags: Sequence[str]) -> list[str]:
    manifest = Path(folder) / "service.json"
    manifest.write_text(json.dumps(MANIFEST))
    (metrics_port,) = local.free_ports(1)
    roles = ("--prefill", "--decode") if is_split else ("--mixed", "--mixed")
    pairs = [text for role, url in zip(roles, engines, strict=True) for text in (role, url)]
    return [PYTHON, "-m", "llmservice_serving.router", "--config", str(manifest), *pairs, "--host", "127.0.0.1",
            "--port", str(port), "--metrics-port", str(metrics_port), "--drain-delay-s", "0.1", *flags]  # fmt: skip


def their_command(port: int, engines: Sequence[str], is_split: bool) -> list[str]:
    (metrics_port,) = local.free_ports(1)
    if is_split:
        workers = ["--vllm-pd-disaggregation", "--prefill", engines[0], "--decode", engines[1]]
    else:
        workers = ["--worker-urls", *engines]
    return [str(peer()), "--host", "127.0.0.1", "--port", str(port), *workers, "--policy", "power_of_two",
            "--prometheus-port", str(metrics_port), "--max-concurrent-requests", "20000",
            "--log-level", "error"]  # fmt: skip


@contextmanager
def router(name: str, engines: Sequence[str], is_split: bool, flags: Sequence[str] = ()) -> Iterator[tuple[str, int]]:
    (port,) = local.free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with TemporaryDirectory() as folder:
        ours = name.startswith(OURS)
        command = (
            our_command(port, folder, engines, is_split, flags) if ours else their_command(port, engines, is_split)
        )
        with process(command, f"{url}/v1/models") as pid:
            yield url, pid


def load(url: str, streams: int, seconds: float) -> dict[str, Any]:
    command = [PYTHON, "-m", "bench.router.load", url, "--streams", str(streams), "--tokens", str(TOKENS)]
    done = subprocess.run([*command, "--seconds", str(seconds)], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(url: str, pid: int, streams: int, seconds: float) -> Measured:
    load(url, streams, 2.0)  # connections, caches
    before_s = cpu_s(pid)
    seen = load(url, streams, seconds)
    spent_s = cpu_s(pid) - before_s
    return Measured(
        cpu_us_per_token=1e6 * spent_s / seen["tokens"],
        cpu_ms_per_request=1e3 * spent_s / seen["requests"],
        ttft_ms=seen["ttft_ms"],
        failed=seen["failed"],
        rss_mib=rss_mib(pid),
    )


def rows(mode: str, streams: int, seconds: float, rounds: int, kinds: dict[str, Sequence[str]]) -> list[str]:
    """Each round measures all, one after the other; medians over the rounds."""
    ports = local.free_ports(2)
    engines = [f"http://127.0.0.1:{port}" for port in ports]
    found: dict[str, list[Measured]] = {name: [] for name in kinds}
    direct: list[float] = []
    with ExitStack() as stack:
        for port, url in zip(ports, engines, strict=True):
            command = [PYTHON, "-m", "bench.router.mock_engine", str(port), "--gap-ms", str(GAP_MS)]
            stack.enter_context(process(command, f"{url}/v1/models"))
        for _ in range(rounds):
            direct.append(load(engines[1], streams, seconds)["ttft_ms"]["0.99"])
            for name, flags in kinds.items():
                with router(name, engines, mode == "P/D", flags) as (url, pid):
                    found[name].append(measure(url, pid, streams, seconds))
    theirs = statistics.median(m.cpu_us_per_token for m in found[THEIRS])
    return [row(mode, streams, name, measured, theirs, statistics.median(direct)) for name, measured in found.items()]


def row(mode: str, streams: int, name: str, measured: Sequence[Measured], theirs_us: float, direct_ms: float) -> str:
    us = statistics.median(m.cpu_us_per_token for m in measured)
    p99 = statistics.median(m.ttft_ms["0.99"] for m in measured)
    ms, rss = (
        statistics.median(values) for values in zip(*((m.cpu_ms_per_request, m.rss_mib) for m in measured), strict=True)
    )
    failed = sum(m.failed for m in measured)
    return (
        f"| {mode} | {streams} | {name} | {us:.1f} | {1e6 / us:,.0f} | {theirs_us / us:.2f} | {ms:.2f} |"
        f" {p99 - direct_ms:+.1f} | {rss:.0f} | {failed} |"
    )


def machine(args: argparse.Namespace) -> str:
    """What else it had to do; without that a TTFT says nothing."""
    rounds = f"{args.rounds} rounds of {args.seconds:g} s each"
    return f"{os.cpu_count()} cores, load average of the last quarter of an hour {os.getloadavg()[2]:.0f}; {rounds}."


COLUMNS = ("CPU, us/token", "tokens/s per core", "ratio", "CPU, ms/request", "added TTFT p99, ms", "MiB", "failed")
HEAD = f"| mode | streams | router | {' | '.join(COLUMNS)} |\n| --- | ---: | --- |{' ---: |' * len(COLUMNS)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"keep the table in {RESULTS.name}")
    args = parser.parse_args()
    kinds: dict[str, Sequence[str]] = {
        f"{OURS}, resume off": ("--resume", "off"), f"{OURS}, resume on": ("--resume", "on"), THEIRS: ()
    }  # fmt: skip
    lines = [HEAD]
    print(HEAD, flush=True)
    for mode in ("plain", "P/D"):
        for streams in args.streams:
            made = rows(mode, streams, args.seconds, args.rounds, kinds)
            print("\n".join(made), flush=True)
            lines += made
    if args.write:
        text = (__doc__ or "").strip()
        RESULTS.write_text(
            "\n".join([f"# The router beside vllm-router\n\n{text}\n\n{machine(args)}\n", *lines, LIMITS])
        )


if __name__ == "__main__":
    main()
