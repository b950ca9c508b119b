"""What the router costs: the same requests to one real engine, directly and through the router, in turns, in one run.

    python -m bench.router.overhead [--requests 200] [--tokens 64] [--json FILE]

Starts one unpaced tiny engine and two router processes on 127.0.0.1, one of which can let streams go on in another
engine (`resume`, for which engines tell it token ids), and ends them. Latencies are of this machine and this
moment: read the differences and ratios, not the absolute numbers. CPU is the router process's own, from /proc.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from e2e.engine import local

MODES = ("off", "on")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
MANIFEST = {
    "kind": "LLMService",
    "metadata": {"name": "tiny", "namespace": "bench"},
    "spec": {
        "model": {"name": "tiny", "servedName": "tiny"},
        "classes": [
            {
                "name": "only",
                "default": True,
                "ttft": {"target": "1s", "percentile": 95},
                "tbt": {"target": "100ms", "percentile": 99},
            }
        ],
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    ttft_s: float
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Milliseconds are medians over requests sent one at a time, direct and routed in turns.

    `added_ttft_p10_ms` is the difference of the 10th percentiles: on a machine with neighbours the median of the routed
    ones mostly shows how long a second process waits for a core.
    """

    requests: int
    tokens_per_request: int
    direct_ttft_ms: float
    routed_ttft_ms: float
    ttft_ratio: float
    added_ttft_p10_ms: float
    direct_total_ms: float
    routed_total_ms: float
    total_ratio: float
    cpu_ms_per_request: float
    cpu_us_per_token: float
    engine_cpu_ms_per_request: float
    cpu_ratio: float
    rss_mib: float


def cpu_s(pid: int) -> float:
    """User and system time of a process and of the threads and children it has reaped."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def tree_cpu_s(pid: int) -> float:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return cpu_s(pid) + sum(tree_cpu_s(int(child)) for child in children)


def rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    url: str
    metrics_url: str
    pid: int


@contextmanager
def router(*flags: str) -> Iterator[Router]:
    """The router as a process of its own, with these further flags."""
    port, metrics_port = local.free_ports(2)
    with TemporaryDirectory() as folder:
        manifest = Path(folder) / "service.yaml"
        manifest.write_text(json.dumps(MANIFEST))
        line = ["--config", str(manifest), "--host", "127.0.0.1", "--port", str(port), "--drain-delay-s", "0.1", *flags]
        line += ["--metrics-port", str(metrics_port)]
        process = subprocess.Popen([sys.executable, "-m", "llmservice_serving.router", *line])
        urls = [f"http://127.0.0.1:{p}" for p in (port, metrics_port)]
        try:
            yield Router(url=urls[0], metrics_url=f"{urls[1]}/metrics", pid=process.pid)
        finally:
            process.terminate()
            process.wait()


async def once(client: aiohttp.ClientSession, url: str, tokens: int, prompt: list[int]) -> Timing:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    started_s = time.perf_counter()
    ttft_s = 0.0
    async with client.post(f"{url}/v1/completions", json={**body, "stream": True}) as reply:
        reply.raise_for_status()
        async for _ in reply.content.iter_any():
            ttft_s = ttft_s or time.perf_counter() - started_s
    return Timing(ttft_s=ttft_s, total_s=time.perf_counter() - started_s)


@dataclass(slots=True, kw_only=True)
class Side:
    """One way to the engine. `pid` None: directly; else a router's."""

    url: str
    pid: int | None = None
    timings: list[Timing] = field(default_factory=list)
    cpu_s: float = 0.0
    engine_cpu_s: float = 0.0


async def measure(engine: local.Engine, sides: list[Side], requests: int, tokens: int) -> None:
    """The same requests by each way, in turns."""
    draw = random.Random(0)
    async with aiohttp.ClientSession() as client:
        for i in range(-10, requests):
            for side in sides:
                prompt = [draw.randrange(4, 1024) for _ in range(64)]
                engine_before, before = tree_cpu_s(engine.pid), cpu_s(side.pid) if side.pid else 0.0
                timing = await once(client, side.url, tokens, prompt)
                if i >= 0:  # the first ten warm all up
                    side.timings.append(timing)
                    side.cpu_s += cpu_s(side.pid) - before if side.pid else 0.0
                    side.engine_cpu_s += tree_cpu_s(engine.pid) - engine_before


def summary(one: Side, other: Side, tokens: int) -> Result:
    direct, routed, requests = one.timings, other.timings, len(one.timings)
    router_cpu_s, engine_cpu_s = other.cpu_s / requests, other.engine_cpu_s / requests
    ttft = [statistics.median(t.ttft_s for t in ts) * 1000 for ts in (direct, routed)]
    p10 = [statistics.quantiles([t.ttft_s for t in ts], n=10)[0] * 1000 for ts in (direct, routed)]
    total = [statistics.median(t.total_s for t in ts) * 1000 for ts in (direct, routed)]
    return Result(
        requests=requests,
        tokens_per_request=tokens,
        direct_ttft_ms=round(ttft[0], 2),
        routed_ttft_ms=round(ttft[1], 2),
        ttft_ratio=round(ttft[1] / ttft[0], 3),
        added_ttft_p10_ms=round(p10[1] - p10[0], 2),
        direct_total_ms=round(total[0], 2),
        routed_total_ms=round(total[1], 2),
        total_ratio=round(total[1] / total[0], 3),
        cpu_ms_per_request=round(router_cpu_s * 1000, 2),
        cpu_us_per_token=round(router_cpu_s / tokens * 1e6, 1),
        engine_cpu_ms_per_request=round(engine_cpu_s * 1000, 2),
        cpu_ratio=round(router_cpu_s / engine_cpu_s, 3),
        rss_mib=round(rss_mib(other.pid or 0), 1),
    )


async def wait_ready(url: str, timeout_s: float = 20) -> None:
    async with aiohttp.ClientSession() as client, asyncio.timeout(timeout_s):
        while True:
            try:
                async with client.post(f"{url}/tokenize", json={"prompt": "a"}) as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.router.overhead", description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    with ExitStack() as stack:
        engine = stack.enter_context(local.engine(role="mixed"))
        routers = [stack.enter_context(router("--mixed", engine.url, "--resume", mode)) for mode in MODES]
        sides = [Side(url=engine.url), *(Side(url=r.url, pid=r.pid) for r in routers)]
        for side in sides[1:]:
            asyncio.run(wait_ready(side.url))
        asyncio.run(measure(engine, sides, args.requests, args.tokens))
        print(" " * 28 + "".join(f"resume {m:<5}" for m in MODES))
        results = {
            f"resume {name}": summary(sides[0], side, args.tokens) for name, side in zip(MODES, sides[1:], strict=True)
        }
    for name in asdict(results["resume off"]):
        print(f"{name:28}" + "".join(f"{asdict(r)[name]:<12}" for r in results.values()))
    if args.json:
        args.json.write_text(json.dumps({k: asdict(r) for k, r in results.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
