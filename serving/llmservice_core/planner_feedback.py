"""What a plan learns from promises that were missed: a margin above the law's own, and when no pool is reduced. Pure.

A miss of the last minute counts only while the error budget of the last hour or so is nearly spent, too (burn rates
over two windows: The Site Reliability Workbook, chapter 5). 99 % of an hour's requests are kept although one minute of
it misses 60 %; who answers the chance of each minute with a replica keeps 99.6 % and pays for it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from llmservice_core.model import Pool, PoolGoal, PoolSeen, Reason
from llmservice_core.planner_facts import Draft, Facts, raised
from llmservice_core.planner_memory import Spent
from llmservice_core.planner_steps import dispersion_of
from llmservice_core.queueing import late_share

MIN_EVENTS: Final = 20.0
LEARNING_RATE: Final = 0.02
LEARNING_PERIOD_S: Final = 15.0
MAX_BURN: Final = 10.0
UNSETTLED_SHARE: Final = 0.25
"""Of the rate, while pods are on their way: the promise counts those misses, too, and replicas to spare would have
prevented some of them. Chosen on the tuning day (docs/evaluation.md)."""
MARGIN_HALF_LIFE_S: Final = 600.0
MAX_MARGIN: Final = 4.0
"""Margin learning (after the study's conformal one): m += rate x (miss / allowed - 1) per period, else decay, as fast
as misses are far from what is allowed."""
RELEASE_RATE: Final = 0.02
RELEASE_BELOW: Final = 0.6
MOST_RELEASE: Final = 0.5
"""While less than RELEASE_BELOW of every error budget is spent, a period takes RELEASE_RATE x what lacks to it from the
margin, and at last from what the law itself keeps above the work: it then keeps more than was promised."""
NEARLY_SPENT: Final = 0.7
"""Share of an error budget beyond which a miss counts."""
BUDGET_HALF_LIFE_S: Final = 1800.0
PRIOR_LATE: Final = 10.0
"""Before anything was seen a budget counts as just spent, with the weight of so many late requests: a new service, or a
small one, learns of each miss."""


def feedback(facts: Facts, goal: PoolGoal, draft: Draft) -> Draft:
    """Adds the learned margin; while the SLO is missed the pool keeps at least its present size."""
    if draft.is_held or not facts.settings.feedback:
        return draft
    margin = max(0.0, facts.memory.margins.get(goal.pool, 0.0))
    miss = missed(facts, goal.pool)
    want = draft.want + margin * math.sqrt(facts.work[goal.pool].total)
    grown = raised(facts, goal.pool, draft, want, Reason.SLO_MISS, f"{miss or 'earlier misses'}: margin {margin:.2f}")
    desired = facts.pools[goal.pool].desired
    if not miss or math.ceil(grown.want) >= desired:
        return grown
    return replace(grown, want=float(desired), driver=Reason.SLO_MISS, why=f"not reduced while {miss}")


def is_settled(facts: Facts, pool: Pool, draft: Draft) -> bool:
    """All wanted pods serve, no more are wanted and none is kept for a backlog: what is missed now, the law has missed.

    A queue alone is no excuse: one that lasts without asking for a replica is what a margin is for.
    """
    seen = facts.pools[pool]
    moving = seen.starting > 0 or seen.unschedulable > 0 or seen.ready != seen.desired
    return not moving and not _is_growing(seen, draft) and not draft.is_catching_up


def _is_growing(seen: PoolSeen, draft: Draft) -> bool:
    return not draft.is_held and math.ceil(draft.want - 1e-9) > seen.desired


def learned_margin(facts: Facts, pool: Pool, draft: Draft) -> float:
    """The margin for the next plan. It grows with misses, by less while pods are on their way and not at all while
    there is no room for them; it shrinks only by windows of attainment that lie wholly after the last disturbance."""
    margin, seen = facts.memory.margins.get(pool, 0.0), facts.pools[pool]
    is_calm = is_settled(facts, pool, draft) and _is_past(facts, pool)
    is_denied = seen.unschedulable > 0 or (_is_growing(seen, draft) and seen.starting == 0)
    if is_denied and not is_calm:
        return margin
    seconds = min(max(0.0, facts.now_s - facts.memory.updated_s), 4 * LEARNING_PERIOD_S)
    found = burns(facts, pool)
    if any(_counts(facts, pool, b) and is_queueing(facts, pool, b.allowed) for b in found):
        beyond = max((b.burn - 1.0) * b.weight for b in found)
        rate = LEARNING_RATE * (1.0 if is_calm else UNSETTLED_SHARE)
        step = rate * min(beyond, MAX_BURN) * seconds / LEARNING_PERIOD_S
        return min(MAX_MARGIN, margin + step)
    return _without_misses(facts, pool, margin, found, seconds) if is_calm else margin


def _is_past(facts: Facts, pool: Pool) -> bool:
    """Whether the last disturbance is in no window of attainment any more."""
    return facts.now_s - facts.memory.unsettled_s.get(pool, -math.inf) >= facts.seen.window_s


def _without_misses(facts: Facts, pool: Pool, margin: float, found: Sequence["Burn"], seconds: float) -> float:
    burn = max((b.burn for b in found), default=0.0)
    if burn > 1.0:
        return margin
    if margin > 0.0:
        margin *= math.exp2(-(1.0 - burn) * seconds / MARGIN_HALF_LIFE_S)
    if not found or not facts.settings.release:
        return margin
    unspent = max(0.0, RELEASE_BELOW - max(_spent_share(facts, pool, b) for b in found))
    return max(-MOST_RELEASE, margin - RELEASE_RATE * unspent * seconds / LEARNING_PERIOD_S)


def is_queueing(facts: Facts, pool: Pool, allowed: float) -> bool:
    """Whether more requests find every replica busy than may be late. If not, the misses have another cause (prompts
    that take longer than their target, say), and more replicas would not help."""
    work, ready = facts.work[pool], facts.pools[pool].ready
    if work.unknown is not None or ready == 0:
        return False
    return late_share(work.total, ready, 0.0, dispersion_of(facts)) > allowed


def missed(facts: Facts, pool: Pool) -> str:
    """The worst miss that counts of those that this pool answers for, in words; empty when there is none."""
    counted = [b for b in burns(facts, pool) if _counts(facts, pool, b)]
    if not counted:
        return ""
    worst = max(counted, key=lambda b: b.burn)
    return f"{worst.text}, {100 * _spent_share(facts, pool, worst):.0f} % of its error budget spent"


def _counts(facts: Facts, pool: Pool, burn: "Burn") -> bool:
    return burn.burn > 1.0 and _spent_share(facts, pool, burn) > NEARLY_SPENT


def _spent_share(facts: Facts, pool: Pool, burn: "Burn") -> float:
    """Late requests over those allowed, both forgetting."""
    late, asked = facts.memory.spent.get(pool, {}).get(burn.promise, (0.0, 0.0))
    return (late + PRIOR_LATE) / (burn.allowed * asked + PRIOR_LATE)


def spent(facts: Facts, pool: Pool) -> Spent:
    """What the next plan knows of this pool's error budgets: each window counts by the part of it that is new."""
    seconds, window_s = max(0.0, facts.now_s - facts.memory.updated_s), facts.seen.window_s
    keep = math.exp2(-seconds / BUDGET_HALF_LIFE_S)
    found = {name: (keep * late, keep * asked) for name, (late, asked) in facts.memory.spent.get(pool, {}).items()}
    new = min(1.0, seconds / window_s) if window_s > 0.0 else 0.0
    for b in burns(facts, pool):
        late, asked = found.get(b.promise, (0.0, 0.0))
        found[b.promise] = (late + new * b.requests * b.burn * b.allowed, asked + new * b.requests)
    return {name: row for name, row in found.items() if row[1] >= 1.0}


class Burn(NamedTuple):
    """Of one promise over the short window. `burn`: missed share / allowed share. `weight`: how many misses chance
    explains by one deviation, at least 1, in shares of those allowed; so a miss of many requests is learned as fast as
    a larger one of few."""

    promise: str
    burn: float
    allowed: float
    requests: float
    weight: float
    text: str


def burns(facts: Facts, pool: Pool) -> list[Burn]:
    """Of each class and SLO that this pool answers for.

    TTFT is the prefill pool's, or the decode pool's while requests wait there; TBT is the decode pool's.
    """
    found = []
    by_name = {c.name: c for c in facts.seen.classes}
    for wanted in facts.goal.classes:
        got = by_name.get(wanted.name)
        pairs = [("TTFT", wanted.ttft, got.ttft if got else None), ("TBT", wanted.tbt, got.tbt if got else None)]
        for name, slo, attainment in pairs:
            if attainment is None or attainment.share is None or not _answers(facts, pool, name):
                continue
            allowed = 1.0 - slo.share
            if attainment.events >= MIN_EVENTS and allowed > 0.0:
                text = f"{100 * attainment.share:.1f} % of {wanted.name}'s {name} within {slo.target_s:g} s"
                text = f"{text} (target {slo.percentile:g} %)"
                requests = min(attainment.events, (got.arrivals_rps or 0.0) * facts.seen.window_s) if got else 0.0
                weight = max(1.0, math.sqrt(allowed * requests))
                burn, promise = (1.0 - attainment.share) / allowed, f"{wanted.name} {name} {slo.target_s:g}"
                found.append(Burn(promise, burn, allowed, requests, weight, text))
    return found


def _answers(facts: Facts, pool: Pool, slo: str) -> bool:
    if pool is Pool.MIXED:
        return True
    if slo == "TBT":
        return pool is Pool.DECODE
    return (pool is Pool.DECODE) is decode_waits(facts)


def decode_waits(facts: Facts) -> bool:
    decode = facts.pools.get(Pool.DECODE)
    return decode is not None and decode.waiting is not None and decode.waiting > max(1, decode.ready)
