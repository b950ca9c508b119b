"""P<->D flip: an engine that one pool does not need now serves in the other one, instead of a pod that starts. Pure.

Worth it where a start is long: a flip takes a drain and seconds, and back again as much, so what stabilisation holds
for the price of a start-up may be lent at once. After our sizing study (clearly better from 180 s on). Nobody relabels
pods in a cluster yet, where this step is therefore off (`Settings.flips`); the simulator carries it out.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from llmservice_core.model import Flip, Pool
from llmservice_core.planner_facts import Drafts, Facts, Stabilised
from llmservice_core.planner_feedback import missed

LEAST_START_UP_S: Final = 180.0
SURPLUS_S: Final = 60.0
"""A replica must have been too many for so long: flips to and fro cost a drain each (study: a naive split loses 3 to 8
points)."""

Settled = Mapping[Pool, Stabilised]


def flipped(facts: Facts, drafts: Drafts, settled: Settled) -> tuple[Settled, Flip | None]:
    """Sizes with the surplus of one pool lent to the other, where that one grows."""
    if not facts.settings.flips or facts.start_up_s < LEAST_START_UP_S or not _are_alike(facts):
        return settled, None
    for source, target in ((Pool.PREFILL, Pool.DECODE), (Pool.DECODE, Pool.PREFILL)):
        count = min(_surplus(facts, drafts, settled, source), _growth(facts, settled, target))
        if count > 0:
            desired = facts.pools[source].desired
            less = replace(settled[source], replicas=min(settled[source].replicas, desired - count), held=None, why="")
            why = f"flip {count} {source} -> {target}: a start takes {facts.start_up_s:.0f} s"
            return {**settled, source: less}, Flip(source=source, target=target, count=count, why=why)
    return settled, None


def carried_out(flip: Flip | None, before: Mapping[Pool, int], after: Mapping[Pool, int]) -> Flip | None:
    """As many as limits have left of it."""
    if flip is None:
        return None
    left = min(flip.count, before[flip.source] - after[flip.source], after[flip.target] - before[flip.target])
    return replace(flip, count=left) if left > 0 else None


def _are_alike(facts: Facts) -> bool:
    return {*facts.pools} == {Pool.PREFILL, Pool.DECODE} and len({p.gpus_per_replica for p in facts.goal.pools}) == 1


def _surplus(facts: Facts, drafts: Drafts, settled: Settled, pool: Pool) -> int:
    """Ready replicas beyond all that was wanted lately; none of a pool whose load is not known in full, or late."""
    if drafts[pool].keeps or missed(facts, pool):
        return 0
    goal = next(p for p in facts.goal.pools if p.pool is pool)
    lately = [n for t, n in facts.memory.wants.get(pool, ()) if t > facts.now_s - SURPLUS_S]
    needed = max([settled[pool].wanted, goal.min_replicas, *lately])
    is_young = facts.now_s - facts.memory.started_s < SURPLUS_S
    seen = facts.pools[pool]
    return 0 if is_young else max(0, min(seen.desired, seen.ready) - needed)


def _growth(facts: Facts, settled: Settled, pool: Pool) -> int:
    return settled[pool].replicas - facts.pools[pool].desired
