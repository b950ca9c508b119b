"""A service in virtual time that the operator's own code observes: the simulator's pods and counters, a range vector of
Prometheus between, `llmservice_operator.observe` and the planner with its memory on the other side. Cases disturb one.
"""

import asyncio
import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from llmservice_core import planner, replay
from llmservice_core.latency import Work
from llmservice_core.model import Goal, Mode, Observation, Plan, Pool, PoolGoal, ServiceClass, Slo
from llmservice_core.planner_memory import Memory
from llmservice_core.samples import Series
from llmservice_operator.observe import observe, remembered
from llmservice_operator.observe_prometheus import Prometheus, PrometheusError, parse_matrix
from llmservice_sim.engine import EngineLimits
from llmservice_sim.fleet import Fleet
from llmservice_sim.fleet_settings import Mishaps, Replica, Scenario, StartUp
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import Sizing, View

SERVICE = "ns/chat"
KEPT_S = 3600.0
"""What this Prometheus keeps."""
STRICT = ServiceClass(name="strict", ttft=Slo(target_s=5.0, percentile=95), tbt=Slo(target_s=1.0, percentile=99))
LOOSE = ServiceClass(
    name="loose", ttft=Slo(target_s=60.0, percentile=90), tbt=Slo(target_s=3.0, percentile=99), is_default=True
)
Row = dict[str, Any]
"""One series as Prometheus' JSON has it."""
Tamper = Callable[[float, list[Row]], list[Row]]
"""(virtual time, series of the answer) -> what is answered instead; may raise PrometheusError."""


def step_s(work: Work) -> float:
    """50 ms, 1 ms for each token: a slow engine, so that few requests make a load."""
    return 0.05 + 1e-3 * work.tokens


def goal(budget: int | None = None, most: int = 8, least: int = 1, interval_s: float = 15.0) -> Goal:
    pools = (Pool.PREFILL, Pool.DECODE)
    return Goal(
        classes=(STRICT, LOOSE),
        pools=tuple(PoolGoal(pool=p, min_replicas=least, max_replicas=most, gpus_per_replica=1) for p in pools),
        mode=Mode.AUTO,
        gpu_budget=budget,
        interval_s=interval_s,
        target_load=0.98,
        stabilization_s=None,
    )


def scenario(wanted: Goal, **changes: Any) -> Scenario:
    limits = EngineLimits(max_batched_tokens=512, max_seqs=64, kv_blocks=2000)
    settings: dict[str, Any] = {
        "goal": wanted,
        "replica": Replica(step_time=step_s, limits=limits, kv_bytes_per_token=131072),
        "policy": "slai",
        "start_up": StartUp(mean_s=45.0, cv=0.2),
        "mishaps": Mishaps(),
        "initial": {Pool.PREFILL: 1, Pool.DECODE: 1},
    }
    return Scenario(**{**settings, **changes})


def load(*phases: tuple[float, float], seed: int = 0) -> list[Arrival]:
    """Poisson arrivals: (until second, requests/s) one after the other; prompts of 20 to 900, answers of 1 to 80."""
    rng, now_s, found = random.Random(seed), 0.0, []
    for end_s, rate in phases:
        while rate and (now_s := now_s + rng.expovariate(rate)) < end_s:
            c = rng.choice((STRICT, LOOSE))
            found.append(
                Arrival(
                    time_s=now_s,
                    prompt_tokens=rng.randint(20, 900),
                    output_tokens=rng.randint(1, 80),
                    service_class=c.name,
                    tbt_s=c.tbt.target_s,
                    ttft_s=c.ttft.target_s,
                )
            )
        now_s = end_s
    return found


class VirtualPrometheus(Prometheus):
    """Answers a range selector from samples in virtual time, as rows that the operator parses."""

    def __init__(self, tampers: Sequence[Tamper]) -> None:
        nothing_is_sent: Any = None
        super().__init__("http://virtual.invalid", nothing_is_sent)
        self.now_s, self.asked, self._tampers = 0.0, 0, tampers
        self.samples: list[Series] = []

    async def range_vector(self, selector: str) -> list[Series]:
        """As the door has it after decoding; what JSON and HTTP do to it is in tests/control/test_observe.py."""
        self.asked += 1
        found = re.search(r"\[(\d+)s\]$", selector)
        assert found is not None
        rows = [row for s in self.samples if (row := _row(s, self.now_s - float(found[1])))]
        for tamper in self._tampers:
            rows = tamper(self.now_s, rows)
        return parse_matrix(self.url, rows)


def _row(series: Series, oldest_s: float) -> Row | None:
    first = bisect_right(series.times, oldest_s)
    values = [list(pair) for pair in zip(series.times[first:], series.values[first:], strict=True)]
    return {"metric": {**series.labels, "__name__": series.name}, "values": values} if values else None


@dataclass
class Disturbed:
    """What a case does to the world; nothing by default."""

    tampers: Sequence[Tamper] = ()
    restarts_s: Sequence[float] = ()
    """The operator is killed then, and starts with what the status had."""
    away_s: float = 0.0
    """So long it is away each time."""
    is_status_lost: bool = False
    """It finds no memory in the status."""
    clock: Callable[[float], float] = lambda now_s: now_s
    """What the operator's clock says at a time."""


@dataclass(frozen=True)
class Tick:
    time_s: float
    seen: Observation
    plan: Plan

    def sizes(self) -> dict[Pool, int]:
        return {p.pool: p.replicas for p in self.plan.pools}


class OperatorLaw:
    """The operator between observation and size: planner, memory, restarts. Its memory reaches the status when sizes
    or reasons change, as production writes it; what happened since is lost with the process."""

    name = "operator"

    def __init__(self, wanted: Goal, disturbed: Disturbed) -> None:
        self.goal, self.disturbed = wanted, disturbed
        self.memory: Memory | None = None
        self.in_status: tuple[Any, str | None] = (None, None)
        self.ticks: list[Tick] = []
        self.fleet: World | None = None
        self._killed = [*disturbed.restarts_s]

    def decide(self, view: View) -> Sizing:
        present = {p.pool: p.desired for p in view.observation.pools}
        if self._killed and view.now_s >= self._killed[0]:
            self.memory = None
            if view.now_s < self._killed[0] + self.disturbed.away_s:
                return Sizing(sizes=present)
            del self._killed[0]
            self._restart()
        now_s = self.disturbed.clock(view.now_s)
        seen = view.observation
        if replay.is_due(self.goal, self.memory, now_s, 0.0):
            assert self.fleet is not None
            self.memory = self.fleet.remembered(self.memory, now_s)
        plan, self.memory = planner.plan(self.goal, seen, self.memory)
        self._write_status(plan, seen)
        self.ticks.append(Tick(view.now_s, seen, plan))
        sizes = {p.pool: p.replicas for p in plan.pools}
        return Sizing(sizes=sizes, why=plan.message, plan=plan)

    def _restart(self) -> None:
        assert self.fleet is not None
        self.fleet.prometheus.gaps.clear()
        text = None if self.disturbed.is_status_lost else self.in_status[1]
        self.memory = Memory.from_json(text) if text else None

    def _write_status(self, plan: Plan, seen: Observation) -> None:
        assert self.memory is not None
        pods = [(p.ready, p.starting) for p in seen.pools]
        signature = (plan.reason, [(p.replicas, p.reason) for p in plan.pools], pods)
        if signature != self.in_status[0]:
            self.in_status = (signature, self.memory.to_json())


class World(Fleet):
    """A fleet whose observations are made by the operator's code."""

    def __init__(self, settings: Scenario, disturbed: Disturbed) -> None:
        self.law = OperatorLaw(settings.goal, disturbed)
        super().__init__(settings, self.law)
        self.law.fleet, self.disturbed = self, disturbed
        self.prometheus = VirtualPrometheus(disturbed.tampers)

    def observe(self) -> Observation:
        now_s, cluster = self._agenda.now_s, self._cluster
        oldest_s = now_s - KEPT_S
        self.prometheus.now_s = now_s
        self.prometheus.samples = [*self._router_target.since(oldest_s), *self._engine_series(oldest_s)]
        asked = observe(
            self._goal,
            SERVICE,
            self.prometheus,
            cluster.seen(),
            cluster.start_up_s,
            self.disturbed.clock(now_s),
            cluster.ready_since(),
        )
        return asyncio.run(asked)

    def remembered(self, memory: Memory | None, now_s: float) -> Memory | None:
        cluster = self._cluster
        asked = remembered(self._goal, SERVICE, self.prometheus, cluster.seen(), cluster.start_up_s, memory, now_s, 0.0)
        return asyncio.run(asked)


@dataclass(frozen=True)
class Run:
    ticks: Sequence[Tick]
    world: World

    def at(self, time_s: float) -> Tick:
        """The decision in force then."""
        return [t for t in self.ticks if t.time_s <= time_s][-1]

    def between(self, start_s: float, end_s: float) -> list[Tick]:
        return [t for t in self.ticks if start_s <= t.time_s <= end_s]

    def sizes(self, pool: Pool, start_s: float = 0.0, end_s: float = 1e9) -> list[int]:
        return [t.sizes()[pool] for t in self.between(start_s, end_s)]


def run(settings: Scenario, trace: list[Arrival], end_s: float, **disturbed: Any) -> Run:
    """Until `end_s`: one late request keeps the virtual world going until then."""
    last = replace(trace[-1], time_s=end_s, prompt_tokens=20, output_tokens=1)
    world = World(settings, Disturbed(**disturbed))
    world.run([*(a for a in trace if a.time_s < end_s), last])
    return Run(world.law.ticks, world)


def during(start_s: float, end_s: float, tamper: Tamper) -> Tamper:
    """Only in this stretch of time."""
    return lambda now_s, rows: tamper(now_s, rows) if start_s <= now_s < end_s else rows


def unreachable(now_s: float, rows: list[Row]) -> list[Row]:
    raise PrometheusError("Prometheus at http://virtual.invalid cannot be reached: connection refused")


def changes(sizes: Iterable[int]) -> int:
    found = list(sizes)
    return sum(a != b for a, b in pairwise(found))


def resized(asked: Arrival, prompt_tokens: int) -> Arrival:
    return replace(asked, prompt_tokens=prompt_tokens)
