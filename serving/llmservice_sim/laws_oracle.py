"""Laws that know the load beforehand: what is possible with the same engines, router and start-up times.

`oracle` asks for pods one start-up before they are needed; `static-peak` keeps for ever what the peak needs. Both take
need(t) = u + level sqrt(u) of the work u that will arrive, by the planner's own costs, and search by whole runs for the
smallest level of each pool at which every promise is kept. Bounds to compare with, not proved optimal.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations

from llmservice_core.capacity import PoolCapacity, decode_step, pool_capacity
from llmservice_core.model import Pool, PoolGoal, PoolSeen
from llmservice_core.planner_demand import strictest_tbt_s
from llmservice_core.planner_limits import Wish, fit
from llmservice_sim.fleet import Fleet
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.fleet_settings import TILE_TOKENS, Scenario
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import Sizing, View
from llmservice_sim.profile import limits_of, step_stats

CLAIRVOYANT = ("oracle", "static-peak")
BIN_S = 15.0
LEVELS = tuple(round(-0.6 + 0.1 * i, 1) for i in range(41))
"""Of the square root margin, from scarce to lavish."""

Curves = Mapping[Pool, Sequence[float]]
"""Replicas of work that arrive in each bin."""
Levels = Mapping[Pool, float]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Sizes from the start of each bin on; the last ones hold."""

    name: str
    sizes: Sequence[Mapping[Pool, int]]

    def decide(self, view: View) -> Sizing:
        return Sizing(sizes=self.at(view.now_s), why="the load was known")

    def at(self, time_s: float) -> Mapping[Pool, int]:
        return self.sizes[min(int(time_s / BIN_S), len(self.sizes) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A law and the service that it starts from; `keeps_all` False: no level kept every promise."""

    law: Schedule
    scenario: Scenario
    keeps_all: bool
    runs: int


def find(
    name: str,
    scenario: Scenario,
    trace: Sequence[Arrival],
    progress: Callable[[int], None] | None = None,
    make: type[Fleet] = Fleet,
    separate: bool = True,
) -> Found:
    """The cheapest schedule of its kind that keeps every promise, as far as a search over LEVELS finds it.

    `separate` False: one level for all pools, found in six runs; a dearer bound.
    """
    return _Search(name, scenario, trace, progress, make).best(separate)


class _TooLateError(Exception):
    """A run that cannot keep its promises any more."""


class _Search:
    def __init__(
        self,
        name: str,
        scenario: Scenario,
        trace: Sequence[Arrival],
        progress: Callable[[int], None] | None,
        make: type[Fleet],
    ) -> None:
        self._name, self._scenario, self._trace, self._progress = name, scenario, trace, progress
        self._make = make
        self._curves = curves(scenario, trace)
        self._allowed = _allowed_late(scenario, trace)
        self._known: dict[object, bool] = {}
        """Of schedules that were run, for neighbouring levels often give the same one."""
        self._runs = 0

    def best(self, separate: bool) -> Found:
        """First one level for all pools; then each pool's own as low as it may be, in the order that ends cheapest."""
        pools = list(self._curves)
        common = self._lowest(lambda level: dict.fromkeys(pools, level), len(LEVELS) - 1)
        start = dict.fromkeys(pools, LEVELS[common])
        keeps_all = self._keeps(start)
        ends = (
            [self._lowered(start, order, common) for order in permutations(pools)]
            if keeps_all and separate
            else [start]
        )
        law = min((self._law(levels) for levels in ends), key=self._cost)
        return Found(law=law, scenario=self._start(law), keeps_all=keeps_all, runs=self._runs)

    def _lowered(self, levels: Levels, order: Sequence[Pool], high: int) -> Levels:
        """The pool that comes first may use up what slack there is."""
        for pool in order if len(order) > 1 else ():
            levels = _with(levels, pool, LEVELS[self._lowest(partial(_with, levels, pool), high)])
        return levels

    def _cost(self, law: Schedule) -> int:
        gpus = {g.pool: g.gpus_per_replica for g in self._scenario.goal.pools}
        return sum(n * gpus[pool] for sizes in law.sizes for pool, n in sizes.items())

    def _lowest(self, levels_of: Callable[[float], Levels], high: int) -> int:
        """The smallest index up to `high` that keeps all; `high` where none below does."""
        low = 0
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._keeps(levels_of(LEVELS[middle])) else (middle + 1, high)
        return high

    def _keeps(self, levels: Levels) -> bool:
        law = self._law(levels)
        key = tuple(tuple(sorted(sizes.items())) for sizes in law.sizes)
        if key not in self._known:
            self._runs += 1
            if self._progress is not None:
                self._progress(self._runs)
            self._known[key] = self._kept(self._make(self._start(law), law))
        return self._known[key]

    def _kept(self, fleet: Fleet) -> bool:
        """Given up as soon as more first tokens are late than a class may have."""

        def look(_now_s: float, _ended: int, _all: int) -> None:
            if any(n > self._allowed[name] for name, n in fleet.late_first_tokens.items()):
                raise _TooLateError

        try:
            return keeps_all(fleet.run(self._trace, look), self._scenario)
        except _TooLateError:
            return False

    def _start(self, law: Schedule) -> Scenario:
        return replace(self._scenario, initial=law.at(0.0))

    def _law(self, levels: Levels) -> Schedule:
        sizes = _sizes(self._scenario, self._curves, levels)
        if self._name == "static-peak":
            peak = {pool: max(s[pool] for s in sizes) for pool in self._curves}
            return Schedule(self._name, [_fitted(self._scenario, peak)])
        start_up = self._scenario.start_up
        lead_s = start_up.mean_s * (1 + 2 * start_up.cv) + self._scenario.goal.interval_s
        return Schedule(self._name, _ahead(sizes, math.ceil(lead_s / BIN_S)))


def _allowed_late(scenario: Scenario, trace: Sequence[Arrival]) -> Mapping[str, float]:
    """First tokens that may be late, by class; one more, lest rounding decides."""
    asked = Counter(a.service_class for a in trace)
    return {c.name: 1.0 + (1.0 - c.ttft.share) * asked[c.name] for c in scenario.goal.classes}


def _with(levels: Levels, pool: Pool, level: float) -> Levels:
    return {**levels, pool: level}


def keeps_all(result: FleetResult, scenario: Scenario) -> bool:
    targets = {c.name: c for c in scenario.goal.classes}
    pairs = [(c.ttft_share, targets[c.name].ttft.share) for c in result.classes]
    pairs += [(c.tbt_share, targets[c.name].tbt.share) for c in result.classes]
    return all(share is None or share >= wanted for share, wanted in pairs)


def curves(scenario: Scenario, trace: Sequence[Arrival]) -> Curves:
    """Work of each pool over time by the planner's own costs, at the mean lengths of the trace."""
    prompt = sum(a.prompt_tokens for a in trace) / len(trace)
    output = sum(a.output_tokens for a in trace) / len(trace)
    costs = {g.pool: _capacity(scenario, g, round(prompt), round(output)) for g in scenario.goal.pools}
    count = int(trace[-1].time_s / BIN_S) + 1
    return {pool: _curve(cost, trace, prompt + output / 2, count) for pool, cost in costs.items()}


def _capacity(scenario: Scenario, goal: PoolGoal, prompt: int, output: int) -> PoolCapacity:
    stats = step_stats(scenario.replica, goal.pool, max(1, prompt), max(1, output))
    seen = replace(_nobody(goal), limits=limits_of(scenario.replica), steps=stats, recent_steps=stats)
    return pool_capacity(seen, strictest_tbt_s(scenario.goal), None)


def _nobody(goal: PoolGoal) -> PoolSeen:
    return PoolSeen(pool=goal.pool, desired=0, ready=0, starting=0, draining=0, unschedulable=0)


def _step_s(cost: PoolCapacity, context: float) -> float:
    """Of a decode step at half the planned width."""
    if cost.learned is None:
        return 0.0
    x = decode_step(max(1, (cost.width or 1) // 2), TILE_TOKENS, context)
    return sum(t * v for t, v in zip(cost.learned.theta, x, strict=True))


def _curve(cost: PoolCapacity, trace: Sequence[Arrival], context: float, count: int) -> Sequence[float]:
    """Prompts count when they arrive, answers evenly over the time that they decode at half the width."""
    work = [0.0] * count
    step_s = _step_s(cost, context)
    for a in trace:
        first = int(a.time_s / BIN_S)
        if cost.pool is not Pool.DECODE:
            work[first] += a.prompt_tokens * (cost.tau_prefill_s or 0.0) / BIN_S
        if cost.pool is not Pool.PREFILL:
            last = min(count - 1, int((a.time_s + a.output_tokens * step_s) / BIN_S))
            share = a.output_tokens * (cost.tau_decode_s or 0.0) / BIN_S / (last - first + 1)
            for at in range(first, last + 1):
                work[at] += share
    return work


def _sizes(scenario: Scenario, work: Curves, levels: Levels) -> list[Mapping[Pool, int]]:
    bins = zip(*work.values(), strict=True)
    return [
        _fitted(scenario, {p: math.ceil(u + levels[p] * math.sqrt(u) - 1e-9) for p, u in zip(work, row, strict=True)})
        for row in bins
    ]


def _fitted(scenario: Scenario, wanted: Mapping[Pool, int]) -> Mapping[Pool, int]:
    """Within limits and budget, as the planner's last step does it."""
    wishes = [
        Wish(goal=g, seen=_nobody(g), replicas=wanted[g.pool], needed=wanted[g.pool], need=max(1e-6, wanted[g.pool]))
        for g in scenario.goal.pools
    ]
    return dict(fit(wishes, scenario.goal.gpu_budget).sizes)


def _ahead(sizes: Sequence[Mapping[Pool, int]], bins: int) -> list[Mapping[Pool, int]]:
    """The most that is needed from now until a pod that is asked for now serves."""
    return [{pool: max(s[pool] for s in sizes[at : at + bins + 1]) for pool in sizes[at]} for at in range(len(sizes))]
