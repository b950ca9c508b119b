"""The same service with coarser engines, for days of traffic: `FastFleet` instead of `Fleet`.

Router, cluster, laws and planner are the very same objects. Different are the engines (`fast_prefill`, `fast_decode`)
and that the engines of a pool share one scraped set of counters. What that costs in exactness is measured by
tests/sim/test_fast.py. Only for services with a prefill and a decode pool, without scatter of step times.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from llmservice_core.model import Pool
from llmservice_core.observation import ReadySince
from llmservice_core.policies import make_policy
from llmservice_core.samples import Series
from llmservice_sim.fast_counters import GapCounts, GapHistogram
from llmservice_sim.fast_decode import FastDecode, Lines
from llmservice_sim.fast_prefill import FastPrefill
from llmservice_sim.fast_steps import FastPod, FastStepper
from llmservice_sim.fleet import Fleet
from llmservice_sim.fleet_cluster import Cluster
from llmservice_sim.fleet_counters import EngineCounters, Target, engine_target
from llmservice_sim.fleet_pods import Pod, PodState, Process
from llmservice_sim.fleet_requests import Part, Request
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.fleet_settings import Scenario

FIDELITIES = ("exact", "fast")
SPLIT = {Pool.PREFILL, Pool.DECODE}


class FidelityError(ValueError):
    """The service cannot be simulated fast; the text says what to change."""


class Shared:
    """Counters and target of a pool, and what its engines have in common."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.lines = Lines(scenario.replica.step_time)
        self.histogram = GapHistogram(scenario.goal.classes)
        self.pods: list[Pod] = []
        classes, pools = scenario.goal.classes, [p.pool for p in scenario.goal.pools]
        self.counters = {p: EngineCounters(classes, scenario.replica, partial(self._live, p)) for p in pools}
        self.targets = {p: engine_target(p.value, p, classes) for p in pools}

    def _live(self, pool: Pool) -> list[int]:
        rows = [pod.live() for pod in self.pods if pod.pool is pool]
        return [sum(column) for column in zip(*rows, strict=True)] if rows else [0, 0, 0]


class FastCluster(Cluster):
    shared: Shared

    def _new_pod(self, name: str, pool: Pool) -> Pod:
        return FastPod(name=name, pool=pool, created_s=self._agenda.now_s, target=self.shared.targets[pool])

    def _new_process(self, pod: Pod) -> Process:
        replica, counters = self._scenario.replica, self.shared.counters[pod.pool]
        if pod.pool is Pool.PREFILL:
            return Process(FastPrefill(replica, make_policy(self._scenario.policy)), counters)
        gaps = GapCounts(self._scenario.goal.classes, counters, self.shared.histogram)
        return Process(FastDecode(replica, self.shared.lines, counters, gaps, self._agenda.now_s), counters)


class FastFleet(Fleet):
    def _make(self, scenario: Scenario, pods: random.Random, steps: random.Random) -> tuple[Cluster, FastStepper]:
        if {p.pool for p in scenario.goal.pools} != SPLIT:
            raise FidelityError(
                "fast fidelity has prefill and decode pools only: use --fidelity exact for a mixed pool"
            )
        if scenario.replica.noise:
            raise FidelityError("fast fidelity has no scatter of step times: use --fidelity exact or leave --noise out")
        self._shared = Shared(scenario)
        cluster = FastCluster(scenario, self._agenda, pods, self._lost, self._pods_changed)
        cluster.shared, self._shared.pods = self._shared, cluster.pods
        stepper = FastStepper(self._agenda, scenario.replica.step_time, self._first_token, self._part_done)
        return cluster, stepper

    def _begin_scrapes(self) -> None:
        super()._begin_scrapes()
        for pool, target in self._shared.targets.items():
            self._agenda.after(self._phase_s(pool.value), partial(self._scrape_pool, pool, target))

    def _scrape_pool(self, pool: Pool, target: Target) -> None:
        for pod in self._cluster.pods:
            if pod.pool is pool:
                self._fast.catch_up(pod)
        target.scrape(self._agenda.now_s, self._shared.counters[pool].values())
        self._agenda.after(self._scenario.scrape_s, partial(self._scrape_pool, pool, target))

    @property
    def _fast(self) -> FastStepper:
        assert isinstance(self._stepper, FastStepper)
        return self._stepper

    def _pods_changed(self) -> None:
        for pod in self._cluster.pods:
            if pod.name not in self._scraped and pod.process is not None:
                self._scraped.add(pod.name)
                self._agenda.after(self._phase_s(pod.name), partial(self._look, pod))
        self._router.fleet_changed()

    def _look(self, pod: Pod) -> None:
        """What laws that count requests know of this pod: seen at its own offset, as a scrape of it would."""
        assert isinstance(pod, FastPod)
        if pod.state is not PodState.GONE:
            pod.in_flight = float(sum(pod.live()))
            self._agenda.after(self._scenario.scrape_s, partial(self._look, pod))

    def _arrive(self, request: Request, take: Callable[[], Request]) -> None:
        """Routers count tokens as they come."""
        for pod in self._cluster.pods:
            if pod.pool is Pool.DECODE:
                self._fast.catch_up(pod)
        super()._arrive(request, take)

    def _lost(self, pod: Pod, part: Part) -> None:
        self._fast.lost(pod, part)
        self._router.lost(part.request)

    def _engine_series(self, oldest_s: float) -> list[Series]:
        return [s for target in self._shared.targets.values() for s in target.since(oldest_s)]

    def _ready_since(self) -> ReadySince:
        """All engines of a pool are scraped as one."""
        return ReadySince(routers=[0.0])

    def _in_flight(self) -> dict[Pool, float | None]:
        found: dict[Pool, float | None] = {}
        for goal in self._goal.pools:
            known = [p.in_flight for p in self._cluster.pods if p.pool is goal.pool and isinstance(p, FastPod)]
            counts = [count for count in known if count is not None]
            found[goal.pool] = sum(counts) if counts else None
        return found

    def _result(self) -> FleetResult:
        self._gaps_s = dict(self._shared.histogram.points())
        return super()._result()


def fleet_of(fidelity: str) -> type[Fleet]:
    if fidelity not in FIDELITIES:
        raise FidelityError(f"there is no fidelity {fidelity!r}: choose from {', '.join(FIDELITIES)}")
    return FastFleet if fidelity == "fast" else Fleet
