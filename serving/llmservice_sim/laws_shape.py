"""What laws of other projects share: limits, a budget that Kubernetes does not know, and steps up and down in time."""

from __future__ import annotations

from collections.abc import Mapping

from llmservice_core.model import Goal, Pool, PoolGoal, PoolSeen

UP_PERIOD_S = 15.0
UP_PODS = 4
DOWN_WINDOW_S = 300.0


class Wishes:
    """Down to the largest wish of a window; up by at most the larger of 4 pods and 100 % at a time (HPA's defaults)."""

    def __init__(self, window_s: float = DOWN_WINDOW_S) -> None:
        self._window_s = window_s
        self._wishes: dict[Pool, list[tuple[float, int]]] = {}

    def shaped(self, goal: PoolGoal, present: int, wish: int, now_s: float) -> int:
        wish = min(max(wish, goal.min_replicas), goal.max_replicas)
        recent = [(t, n) for t, n in self._wishes.get(goal.pool, ()) if t > now_s - self._window_s]
        self._wishes[goal.pool] = [*recent, (now_s, wish)]
        if wish <= present:
            return min(present, max(n for _, n in self._wishes[goal.pool]))
        return min(wish, present + max(UP_PODS, present))


def by_pool(pools: tuple[PoolSeen, ...]) -> Mapping[Pool, PoolSeen]:
    return {p.pool: p for p in pools}


def within_budget(goal: Goal, sizes: Mapping[Pool, int], seen: Mapping[Pool, PoolSeen]) -> Mapping[Pool, int]:
    """Kubernetes has no budget over two Deployments: a quota would refuse the pods that are too many."""
    fitted, budget = dict(sizes), goal.gpu_budget
    gpus = {p.pool: p.gpus_per_replica for p in goal.pools}
    while budget is not None and sum(n * gpus[p] for p, n in fitted.items()) > budget:
        growing = [p for p, n in fitted.items() if n > seen[p].desired]
        if not growing:
            break
        fitted[max(growing, key=lambda p: fitted[p] - seen[p].desired)] -= 1
    return fitted
