"""Who decides the sizes of the pools: one small interface, so that laws can be compared on the same service.

A law sees what the operator would see. `rad` is ours: core/planner itself. Others are written from their descriptions,
with their own numbers as parameters; those of other projects for language models are in `laws_peers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from llmservice_core import planner
from llmservice_core.model import Goal, Pool, PoolGoal, PoolSeen
from llmservice_core.planner_facts import ALL_STEPS, Settings
from llmservice_core.planner_memory import Memory
from llmservice_sim.laws_peers import Dynamo, KedaSlo, TokenAware
from llmservice_sim.laws_shape import Wishes, by_pool, within_budget
from llmservice_sim.laws_view import Law, Sizing, View

__all__ = ["Dynamo", "Hpa", "KedaSlo", "Law", "Rad", "Sizing", "Static", "TokenAware", "View", "law_of"]


FIXED_MARGINS = Settings(
    trend=False, past_errors=False, dispersion=False, hard_width=False, slack=False, feedback=False, release=False
)
"""Of the law rad-static: RAD's work and square root staffing, nothing foreseen and nothing learned of misses."""


class Rad:
    """The operator's own planner with its memory; `settings` leaves steps out."""

    def __init__(self, goal: Goal, settings: Settings = ALL_STEPS, name: str = "rad") -> None:
        self._goal, self._settings, self.name = goal, settings, name
        self.memory: Memory | None = None

    def decide(self, view: View) -> Sizing:
        plan, self.memory = planner.plan(self._goal, view.observation, self.memory, settings=self._settings)
        sizes = {p.pool: p.replicas for p in plan.pools}
        return Sizing(sizes=sizes, why=plan.message, plan=plan)


class Static:
    """The same replicas for ever."""

    name = "static"

    def __init__(self, sizes: Mapping[Pool, int]) -> None:
        self._sizes = dict(sizes)

    def decide(self, view: View) -> Sizing:
        return Sizing(sizes=self._sizes, why="fixed replicas")


TOLERANCE = 0.1


class Hpa:
    """HorizontalPodAutoscaler (autoscaling/v2) on requests in flight per pod, with the defaults of Kubernetes.

    desired = ceil(pods x mean / target) outside a tolerance of 10 %; up by at most the larger of 4 pods and 100 % in
    15 s; down to the largest recommendation of the last 300 s. Pods that are not Ready count with 0 when it would grow.
    """

    name = "hpa"

    def __init__(self, goal: Goal, targets: Mapping[Pool, float]) -> None:
        self._goal, self._targets, self._wishes = goal, targets, Wishes()

    def decide(self, view: View) -> Sizing:
        seen = by_pool(view.observation.pools)
        sizes, texts = {}, []
        for goal in self._goal.pools:
            sizes[goal.pool] = self._size(goal, seen[goal.pool], view)
            count = view.in_flight.get(goal.pool)
            known = "an unknown number" if count is None else f"{count:.0f}"
            texts.append(f"{goal.pool}: {known} in flight, {self._targets[goal.pool]:g} per pod wanted")
        return Sizing(sizes=within_budget(self._goal, sizes, seen), why="; ".join(texts))

    def _size(self, goal: PoolGoal, seen: PoolSeen, view: View) -> int:
        count, present = view.in_flight.get(goal.pool), seen.desired
        wish = present if count is None or seen.ready == 0 else self._wish(count, self._targets[goal.pool], seen)
        return self._wishes.shaped(goal, present, wish, view.now_s)

    def _wish(self, count: float, target: float, seen: PoolSeen) -> int:
        ratio = count / (seen.ready * target)
        if abs(ratio - 1.0) <= TOLERANCE:
            return seen.desired
        if ratio < 1.0:
            return math.ceil(count / target - 1e-9)
        ratio = count / (seen.desired * target)
        return seen.desired if ratio <= 1.0 + TOLERANCE else math.ceil(count / target - 1e-9)


LAWS = ("rad", "rad-flips", "rad-static", "static", "hpa", "keda-slo", "token-aware", "dynamo")
HPA_TARGETS = {Pool.PREFILL: 0.8, Pool.DECODE: 60.0, Pool.MIXED: 60.0}
"""Requests in flight per pod that served best on one day of ServeGen's m-large (bench/sizing/TUNED.md)."""


def law_of(name: str, goal: Goal, initial: Mapping[Pool, int], hpa_targets: Mapping[Pool, float]) -> Law:
    """A new law by its name; `initial`: the sizes at the start."""
    makers: Mapping[str, Callable[[], Law]] = {
        "rad": lambda: Rad(goal),
        "rad-flips": lambda: Rad(goal, replace(ALL_STEPS, flips=True), "rad-flips"),
        "rad-static": lambda: Rad(goal, FIXED_MARGINS, "rad-static"),
        "static": lambda: Static(initial),
        "hpa": lambda: Hpa(goal, {**HPA_TARGETS, **hpa_targets}),
        "keda-slo": lambda: KedaSlo(goal),
        "token-aware": lambda: TokenAware(goal),
        "dynamo": lambda: Dynamo(goal),
    }
    if name not in makers:
        raise ValueError(f"there is no law {name!r}: choose from {', '.join(LAWS)}")
    return makers[name]()
