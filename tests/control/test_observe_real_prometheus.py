"""A real Prometheus scrapes a router's and an engine's exporter whose true values are known; then both are mistreated.

One story, told in order on one server (starting Prometheus costs seconds): values, restart of an exporter (reset),
an exporter that dies, Prometheus that stops. The engine's exporter is the product's own.
"""

import asyncio
import random
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import prometheus_client
import pytest
import pytest_asyncio

from e2e.prometheus import fetch
from llmservice_core import metric_names as names
from llmservice_core.capacity import pool_capacity
from llmservice_core.latency import Work
from llmservice_core.model import Goal, Mode, Observation, Pool, PoolGoal, PoolSeen, Reason, ServiceClass, Slo
from llmservice_core.observation import NAMES
from llmservice_core.planner import plan
from llmservice_operator.observe import observe
from llmservice_operator.observe_prometheus import Prometheus
from llmservice_serving.engine_exporter import EngineCollector
from llmservice_serving.engine_numbers import EngineNumbers, Limits, Live
from llmservice_serving.router.metrics import Metrics

pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(120)]

SERVICE = "ns/chat"
SCRAPE_S = 0.5
BATCH = ServiceClass(
    name="batch", ttft=Slo(target_s=1, percentile=95), tbt=Slo(target_s=0.5, percentile=99), is_default=True
)
GOAL = Goal(
    classes=(BATCH,),
    pools=(
        PoolGoal(pool=Pool.PREFILL, min_replicas=1, max_replicas=8, gpus_per_replica=1),
        PoolGoal(pool=Pool.DECODE, min_replicas=1, max_replicas=8, gpus_per_replica=1),
    ),
    mode=Mode.AUTO,
    gpu_budget=None,
    interval_s=5.0,
    target_load=0.98,
    stabilization_s=None,
)
POOLS = tuple(
    PoolSeen(pool=p, desired=2, ready=2, starting=0, draining=0, unschedulable=0) for p in (Pool.PREFILL, Pool.DECODE)
)


class Exporter:
    """A registry served on a port that stays the same over restarts, so that Prometheus sees one instance."""

    def __init__(self) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port: int = s.getsockname()[1]
        self._server: Any = None

    def start(self, registry: prometheus_client.CollectorRegistry) -> None:
        self._server, _ = prometheus_client.start_http_server(self.port, "127.0.0.1", registry)

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class World:
    """Router, decode engine and Prometheus, with the verbs of the story."""

    def __init__(self, tmp: Path, session: aiohttp.ClientSession) -> None:
        self.router, self.engine = Exporter(), Exporter()
        self.router_metrics = self.fresh_router()
        self.numbers = EngineNumbers(
            Limits(kv_tokens=50_000, max_batched_tokens=64, max_seqs=32, tile_tokens=16),
            lambda: Live(waiting=3, prefills=0, decodes=8, hidden=0, unpulled_blocks=0, kv_usage=0.1),
        )
        registry = prometheus_client.CollectorRegistry()
        registry.register(EngineCollector(self.numbers, SERVICE, "decode"))
        self.engine.start(registry)
        port = Exporter().port
        self.process = _start_prometheus(tmp, port, [self.router.port, self.engine.port])
        self.door = Prometheus(f"http://127.0.0.1:{port}", session, timeout_s=5.0)

    def fresh_router(self) -> Metrics:
        metrics = Metrics(SERVICE)
        metrics.start_classes([BATCH])
        self.router.start(metrics.registry)
        return metrics

    def serve(self, requests: int, prompt: int, cached: int, output: int, good: int) -> None:
        """`requests` whole requests, `good` of them with a TTFT in time."""
        m = self.router_metrics
        for i in range(requests):
            m.arrivals.labels(SERVICE, "batch").inc()
            m.judge_ttft(BATCH, i < good)
        for metric, amount in (
            (m.prompts, requests),
            (m.prompt_tokens, requests * prompt),
            (m.cached_tokens, requests * cached),
            (m.answers, requests),
            (m.output_tokens, requests * output),
        ):
            metric.labels(SERVICE, "batch").inc(amount)

    def decode(self, steps: int, rng: random.Random) -> None:
        """Steps of 5 ms + 1 ms per sequence + 2 us per KV token, widths 1 to 16."""
        for _ in range(steps):
            width = rng.randint(1, 16)
            kv = sum(rng.randint(100, 300) for _ in range(width))
            self.numbers.step(_work(width, kv), 0.005 + 0.001 * width + 0.000002 * kv)

    async def look(self) -> Observation:
        return await observe(GOAL, SERVICE, self.door, POOLS, 30.0, time.time())

    async def until(self, holds: Callable[[Observation], bool], within_s: float = 20.0) -> Observation:
        deadline = time.monotonic() + within_s
        while not holds(seen := await self.look()):
            assert time.monotonic() < deadline, f"not within {within_s} s: {seen}"
            await asyncio.sleep(0.2)
        return seen

    async def scraped(self, times: int = 3) -> None:
        await asyncio.sleep(times * SCRAPE_S)


def _work(width: int, kv: int) -> Work:
    return Work(decodes=width, decode_kv_tokens=kv)


def _start_prometheus(tmp: Path, port: int, targets: list[int]) -> "subprocess.Popen[bytes]":
    hosts = ", ".join(f"'127.0.0.1:{t}'" for t in targets)
    (tmp / "prometheus.yml").write_text(
        f"global: {{scrape_interval: {int(1000 * SCRAPE_S)}ms, scrape_timeout: {int(1000 * SCRAPE_S)}ms}}\n"
        f"scrape_configs: [{{job_name: fakes, static_configs: [{{targets: [{hosts}]}}]}}]\n"
    )
    command = [
        str(fetch.binary()),
        f"--config.file={tmp}/prometheus.yml",
        f"--storage.tsdb.path={tmp}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (tmp / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


@pytest.fixture
def stopped() -> Iterator[list[World]]:
    """Worlds that must not outlive the test."""
    worlds: list[World] = []
    yield worlds
    for w in worlds:
        w.router.stop()
        w.engine.stop()
        w.process.kill()
        w.process.wait()


@pytest_asyncio.fixture
async def world(tmp_path: Path, stopped: list[World]) -> AsyncIterator[World]:
    async with aiohttp.ClientSession() as session:
        w = World(tmp_path, session)
        stopped.append(w)
        yield w


async def test_the_story(world: World) -> None:
    rng = random.Random(0)
    world.decode(50, rng)
    first = await world.until(lambda o: o.classes[0].arrivals_rps is not None)
    assert first.classes[0].arrivals_rps == 0.0, "counted zero is zero"
    assert first.classes[0].prompt_tokens is None, "no request yet: no mean"
    assert first.scrape_gap_s == pytest.approx(SCRAPE_S, abs=0.1)

    world.serve(40, prompt=200, cached=50, output=30, good=36)
    world.decode(400, rng)
    await world.scraped()
    seen = await world.look()
    traffic, decode = seen.classes[0], seen.pools[1]
    assert (traffic.arrivals_rps or 0.0) * seen.window_s == pytest.approx(40)
    assert (traffic.prompt_tokens, traffic.output_tokens) == (150.0, 30.0)
    assert traffic.ttft is not None
    assert (traffic.ttft.events, traffic.ttft.good) == (40.0, 36.0)
    assert traffic.tbt is not None
    assert traffic.tbt.events == 0.0, "the engine is scraped and knows no such class: nothing happened"
    assert sum(s.steps for s in decode.steps) == 400
    assert (decode.waiting, decode.running_decodes) == (3.0, 8.0)
    assert seen.waiting_prompt_tokens == 0.0
    learned = pool_capacity(decode, 0.5, None)
    assert learned.learned is not None
    context = learned.learned.context_tokens or 0.0
    assert learned.tau_decode_s == pytest.approx((0.005 + 16 * (0.001 + 0.000002 * context)) / 16, rel=0.01)

    world.router.stop()
    await world.scraped(2)
    world.router_metrics = world.fresh_router()
    world.serve(10, prompt=200, cached=50, output=30, good=10)
    await world.scraped()
    seen = await world.look()
    assert (seen.classes[0].arrivals_rps or 0.0) * seen.window_s == pytest.approx(50), "40 before the restart, 10 after"
    assert seen.classes[0].prompt_tokens == 150.0

    world.engine.stop()
    seen = await world.until(lambda o: o.pools[1].limits is None)
    assert seen.pools[1].waiting is None, "a dead engine's queue is unknown, not its last value"
    assert sum(s.steps for s in seen.pools[1].steps) == 400, "its steps were true when they were counted"
    assert seen.problem is None

    world.router.stop()
    frozen = await world.until(lambda o: time.time() - (o.newest_sample_s or 0.0) > 4 * SCRAPE_S)
    decision, _ = plan(GOAL, frozen, None, now_s=(frozen.newest_sample_s or 0.0) + 60.0)
    assert decision.reason is Reason.METRICS_STALE
    assert [p.replicas for p in decision.pools] == [2, 2]

    world.process.terminate()
    world.process.wait(20)
    seen = await world.look()
    assert "cannot be reached" in (seen.problem or "")
    assert seen.classes[0].arrivals_rps is None
    decision, _ = plan(GOAL, seen, None)
    assert [p.replicas for p in decision.pools] == [2, 2]
    assert decision.reason is Reason.METRICS_MISSING


async def test_a_service_that_nobody_scrapes(world: World) -> None:
    await world.until(lambda o: o.problem is None)
    seen = await observe(GOAL, "ns/other", world.door, POOLS, None, time.time())
    assert 'no series with llmservice="ns/other"' in (seen.problem or "")
    strange = await observe(GOAL, 'a"b\\c', world.door, POOLS, None, time.time())
    assert "no series" in (strange.problem or ""), "a name is quoted, never part of the query"


async def test_names_asked_for_are_all_exported(world: World) -> None:
    """Each name that the operator reads exists on the real exporters (the class's TBT pair appears with its events).

    Router and engine are scraped at different moments of the interval, so both must have been asked first.
    """
    await world.until(lambda o: o.problem is None and o.pools[1].limits is not None)
    everything = await world.door.range_vector(f'{{{names.LLMSERVICE}="{SERVICE}"}}[60s]')
    assert set(NAMES) <= {s.name for s in everything}
