"""Fits wanted pool sizes into minima, maxima and the GPU budget. Pure integer arithmetic; knows nothing of metrics.

Laws: never below a minimum, never above a maximum, never more planned GPUs than the budget (it holds the minima, the
resource checks that), growth never before the GPUs are free, and no replica of a pool with unknown load goes to another
pool: only a budget that does not hold what such pools have cuts them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llmservice_core.model import Pool, PoolGoal, PoolSeen
from llmservice_core.planner_budget import Claim, gain

KEEP: Final = 1.5
"""How much more a replica that exists counts than a new one. Why: a swap costs a start-up on both sides, and loads
that cross each other for a moment would swap forth and back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one pool asks for: whole `replicas`, backed by `need` (real valued), worth `weight` per unit of load.

    Of `replicas`, those above `needed` are only held by stabilisation: they yield to what another pool needs now.
    """

    goal: PoolGoal
    seen: PoolSeen
    replicas: int
    needed: int
    need: float
    weight: float = 1.0
    keeps: bool = False
    """Its load is not known in full: what it has is not shared out."""

    @property
    def floor(self) -> int:
        kept = min(self.seen.desired, self.goal.max_replicas) if self.keeps else 0
        return max(self.goal.min_replicas, kept)

    @property
    def capped(self) -> int:
        """Within minimum and maximum, and no growth while the cluster cannot even place what is asked for now."""
        ceiling = self.goal.max_replicas
        if self.seen.unschedulable > 0:
            ceiling = min(ceiling, max(self.seen.desired, self.goal.min_replicas))
        return max(self.goal.min_replicas, min(self.replicas, ceiling))

    @property
    def placeable(self) -> int:
        """Replicas that have a node; more of them than this are asked for last while some find none."""
        return self.capped if self.seen.unschedulable == 0 else self.seen.ready + self.seen.starting


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    sizes: Mapping[Pool, int]
    held_gpus: int
    """GPUs of pods that are leaving; growth waits for them."""
    why: str = ""
    """What was short and what that means, if something was."""


def fit(wishes: Sequence[Wish], budget: int | None, claims: Sequence[Claim] = ()) -> Fitted:
    """`claims`: what GPUs are worth to the classes; without them pools are compared by weight x load."""
    sizes = {w.goal.pool: w.floor for w in wishes}
    if budget is not None:
        _cut(wishes, sizes, budget, claims)
    while (taker := _next(wishes, sizes, budget, claims)) is not None:
        sizes[taker.goal.pool] += 1
    if budget is not None:
        _wait_for_leaving(wishes, sizes, budget, claims)
    return Fitted(sizes=sizes, held_gpus=_held(wishes, sizes))


def gpus(wishes: Sequence[Wish], sizes: Mapping[Pool, int]) -> int:
    return sum(sizes[w.goal.pool] * w.goal.gpus_per_replica for w in wishes)


def _cut(wishes: Sequence[Wish], sizes: dict[Pool, int], budget: int, claims: Sequence[Claim]) -> None:
    """What is kept may be more than the budget, which a person can lower: the least urgent go, down to the minima."""
    while gpus(wishes, sizes) > budget:
        above = [w for w in wishes if sizes[w.goal.pool] > w.goal.min_replicas]
        if not above:
            return
        sizes[min(above, key=lambda w: _urgency(w, _less(sizes, w.goal.pool), claims)).goal.pool] -= 1


def _next(
    wishes: Sequence[Wish], sizes: Mapping[Pool, int], budget: int | None, claims: Sequence[Claim]
) -> Wish | None:
    """Who gets the next replica: who can place it, then who needs it now, then by `_urgency`."""
    open_wishes = [w for w in wishes if sizes[w.goal.pool] < w.capped]
    if budget is not None:
        used = gpus(wishes, sizes)
        open_wishes = [w for w in open_wishes if used + w.goal.gpus_per_replica <= budget]
    return max(open_wishes, key=lambda w: _urgency(w, sizes, claims), default=None)


def _less(sizes: Mapping[Pool, int], pool: Pool) -> dict[Pool, int]:
    return {**sizes, pool: sizes[pool] - 1}


def _urgency(wish: Wish, sizes: Mapping[Pool, int], claims: Sequence[Claim]) -> tuple[bool, bool, float, float]:
    """Kept promises that one more replica adds per GPU; where it adds none by itself, weight x load."""
    size = sizes[wish.goal.pool]
    load = wish.need / size if size > 0 else float("inf")
    keep = KEEP if size < wish.seen.desired else 1.0
    adds = gain(claims, sizes, wish.goal.pool, wish.goal.gpus_per_replica) if claims else 0.0
    return size < wish.placeable, size < wish.needed, keep * adds, keep * wish.weight * load


def _held(wishes: Sequence[Wish], sizes: Mapping[Pool, int]) -> int:
    return sum(_leaving(w, sizes[w.goal.pool]) * w.goal.gpus_per_replica for w in wishes)


def _leaving(wish: Wish, size: int) -> int:
    """Pods that hold GPUs beyond the plan: draining ones that growth does not take back, and those about to go."""
    stay = wish.seen.ready + wish.seen.starting
    taken_back = min(wish.seen.recallable, max(0, size - stay))
    return wish.seen.draining - taken_back + max(0, stay - size)


def _wait_for_leaving(wishes: Sequence[Wish], sizes: dict[Pool, int], budget: int, claims: Sequence[Claim]) -> None:
    """Takes growth back, least urgent first, while leaving pods still hold the GPUs; never below the present size.

    Growth that only takes drains back frees nothing when it is given up.
    """
    while gpus(wishes, sizes) + _held(wishes, sizes) > budget:
        growing = [w for w in wishes if sizes[w.goal.pool] > _least(w)]
        if not growing:
            return
        sizes[min(growing, key=lambda w: _urgency(w, sizes, claims)).goal.pool] -= 1


def _least(wish: Wish) -> int:
    seen = wish.seen
    back = seen.ready + seen.starting + seen.recallable if seen.recallable else 0
    return max(seen.desired, wish.goal.min_replicas, back)
