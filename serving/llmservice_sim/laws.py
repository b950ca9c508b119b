"""Who decides the sizes of the pools: one small interface, so that laws can be compared on the same service.

A law sees what the operator would see. `rad` is ours: core/planner itself. Others are written from their descriptions,
with their own numbers as parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from llmservice_core import planner
from llmservice_core.model import Goal, Observation, Plan, Pool, PoolGoal, PoolSeen
from llmservice_core.planner_memory import Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """`in_flight`: requests in the engines of a pool, queued ones included, at the last scrape of each; None: none
    was scraped yet."""

    now_s: float
    observation: Observation
    in_flight: Mapping[Pool, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """`plan`: the record of a law that makes one; else `why` in a sentence."""

    sizes: Mapping[Pool, int]
    why: str = ""
    plan: Plan | None = None


class Law(Protocol):
    @property
    def name(self) -> str: ...

    def decide(self, view: View) -> Sizing:
        """The sizes to have from now on."""
        ...


class Rad:
    """The operator's own planner with its memory."""

    name = "rad"

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self.memory: Memory | None = None

    def decide(self, view: View) -> Sizing:
        plan, self.memory = planner.plan(self._goal, view.observation, self.memory)
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
UP_PERIOD_S = 15.0
UP_PODS = 4
DOWN_WINDOW_S = 300.0


class Hpa:
    """HorizontalPodAutoscaler (autoscaling/v2) on requests in flight per pod, with the defaults of Kubernetes.

    desired = ceil(pods x mean / target) outside a tolerance of 10 %; up by at most the larger of 4 pods and 100 % in
    15 s; down to the largest recommendation of the last 300 s. Pods that are not Ready count with 0 when it would grow.
    """

    name = "hpa"

    def __init__(self, goal: Goal, targets: Mapping[Pool, float]) -> None:
        self._goal, self._targets = goal, targets
        self._wishes: dict[Pool, list[tuple[float, int]]] = {p.pool: [] for p in goal.pools}

    def decide(self, view: View) -> Sizing:
        seen = {p.pool: p for p in view.observation.pools}
        sizes, texts = {}, []
        for goal in self._goal.pools:
            sizes[goal.pool] = self._size(goal, seen[goal.pool], view)
            count = view.in_flight.get(goal.pool)
            known = "an unknown number" if count is None else f"{count:.0f}"
            texts.append(f"{goal.pool}: {known} in flight, {self._targets[goal.pool]:g} per pod wanted")
        return Sizing(sizes=self._within_budget(sizes, seen), why="; ".join(texts))

    def _size(self, goal: PoolGoal, seen: PoolSeen, view: View) -> int:
        count, present = view.in_flight.get(goal.pool), seen.desired
        wish = present if count is None or seen.ready == 0 else self._wish(count, self._targets[goal.pool], seen)
        wish = min(max(wish, goal.min_replicas), goal.max_replicas)
        recent = [(t, n) for t, n in self._wishes[goal.pool] if t > view.now_s - DOWN_WINDOW_S]
        self._wishes[goal.pool] = [*recent, (view.now_s, wish)]
        if wish <= present:
            return min(present, max(n for _, n in self._wishes[goal.pool]))
        return min(wish, present + max(UP_PODS, present))

    def _wish(self, count: float, target: float, seen: PoolSeen) -> int:
        ratio = count / (seen.ready * target)
        if abs(ratio - 1.0) <= TOLERANCE:
            return seen.desired
        if ratio < 1.0:
            return math.ceil(count / target - 1e-9)
        ratio = count / (seen.desired * target)
        return seen.desired if ratio <= 1.0 + TOLERANCE else math.ceil(count / target - 1e-9)

    def _within_budget(self, sizes: Mapping[Pool, int], seen: Mapping[Pool, PoolSeen]) -> Mapping[Pool, int]:
        """Kubernetes has no budget over two Deployments: a quota would refuse the pods that are too many."""
        fitted, budget = dict(sizes), self._goal.gpu_budget
        gpus = {p.pool: p.gpus_per_replica for p in self._goal.pools}
        while budget is not None and sum(n * gpus[p] for p, n in fitted.items()) > budget:
            growing = [p for p, n in fitted.items() if n > seen[p].desired]
            if not growing:
                break
            fitted[max(growing, key=lambda p: fitted[p] - seen[p].desired)] -= 1
        return fitted


LAWS = ("rad", "static", "hpa")
HPA_TARGETS = {Pool.PREFILL: 1.0, Pool.DECODE: 60.0, Pool.MIXED: 60.0}
"""Requests in flight per pod that served best in our sizing study, tuned on one day of ServeGen's m-large."""


def law_of(name: str, goal: Goal, initial: Mapping[Pool, int], hpa_targets: Mapping[Pool, float]) -> Law:
    """A new law by its name; `initial`: the sizes at the start."""
    if name == "rad":
        return Rad(goal)
    if name == "static":
        return Static(initial)
    if name == "hpa":
        return Hpa(goal, {**HPA_TARGETS, **hpa_targets})
    raise ValueError(f"there is no law {name!r}: choose from {', '.join(LAWS)}")
