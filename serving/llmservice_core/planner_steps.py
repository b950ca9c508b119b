"""The steps of a plan, each a pure function from drafts to drafts with one sentence that says what it did.

A draft is a wish for one pool in real-valued replicas. `planner.plan` calls the steps in order; limits come after.
RAD (arXiv 2508.01002) sizes one pool of nodes that time-share both phases; a pool per phase is our transposition.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from llmservice_core.capacity import PoolCapacity
from llmservice_core.model import Pool, PoolGoal, PoolSeen, Reason
from llmservice_core.planner_demand import Demand, strictest_ttft
from llmservice_core.planner_facts import Draft, Facts, Work, raised
from llmservice_core.planner_forecast import Errors, spare, trend
from llmservice_core.queueing import late_share, peakedness, punctual, within

MARGIN_PREFILL: Final = 0.10
MARGIN_DECODE: Final = 0.35
"""Square root staffing above the work (sizing study): decode needs more, as a late pod breaks TBT for all it holds."""
STRICT_OVERHEAD_S: Final = 0.05
STRICT_SLACK_FLOOR_S: Final = 0.10
"""Of a TTFT target: spent outside prefill, and the least that counts as left for queueing."""
RESIDENT_SIGMAS: Final = 3.0
"""So many deviations above the mean of the residents of a decode pool must find a place."""
MIN_EVENTS: Final = 20.0
LEARNING_RATE: Final = 0.02
LEARNING_PERIOD_S: Final = 15.0
MAX_BURN: Final = 10.0
UNSETTLED_SHARE: Final = 0.25
"""Of the rate, while pods are on their way: the promise counts those misses, too, and replicas to spare would have
prevented some of them. Chosen on the tuning day (docs/evaluation.md)."""
MARGIN_HALF_LIFE_S: Final = 600.0
MAX_MARGIN: Final = 4.0
RELEASE_RATE: Final = 0.001
RELEASE_BURN: Final = 0.25
"""Margin learning (after the study's conformal one): m += rate x (miss / allowed - 1) per period, else decay, as fast
as misses are far from what is allowed. At 0, a period with at most RELEASE_BURN takes RELEASE_RATE more, down to the
law's own margin with its sign turned."""


def work_of(pool: Pool, demand: Demand, capacity: PoolCapacity) -> Work:
    """RAD's lambda d of one pool, unknown as soon as a factor is; no demand is no work at any capacity."""
    if demand.unknown is not None:
        reason = Reason.WARMING_UP if demand.is_warming_up else Reason.METRICS_MISSING
        return Work(unknown=demand.unknown, reason=reason)
    prefill = 0.0 if pool is Pool.DECODE else _times(demand.prompt_tokens_rps, capacity.tau_prefill_s)
    decode = 0.0 if pool is Pool.PREFILL else _times(demand.output_tokens_rps, capacity.tau_decode_s)
    if prefill is None or decode is None:
        return Work(unknown=capacity.unknown or "the cost of a token is not known yet")
    return Work(prefill=prefill, decode=decode)


def size(facts: Facts, goal: PoolGoal, draft: Draft) -> Draft:
    """Square root staffing u + beta sqrt(u); no less than the strict class needs or Theorem 1 with its guard asks."""
    work = facts.work[goal.pool]
    if work.unknown is not None:
        return replace(draft, driver=work.reason, why=f"held: {work.unknown}", is_held=True)
    want = _staffed(facts, goal.pool, work)
    desired = facts.pools[goal.pool].desired
    driver = Reason.DEMAND_UP if want > desired else Reason.DEMAND_DOWN
    return Draft(want=want, driver=driver, why=_work_text(facts, goal.pool, work))


def _staffed(facts: Facts, pool: Pool, work: Work) -> float:
    """Replicas for the work that is expected when a pod asked for now would serve."""
    growth = _growth(facts, pool)
    u = growth * work.total
    beta = max(0.0, _beta(pool) + min(0.0, facts.memory.margins.get(pool, 0.0)))
    guarded = max(u / facts.goal.target_load, _strict(facts, pool, work, growth))
    if not facts.settings.square_root:
        return guarded
    want = u + beta * math.sqrt(u)
    placed = _placed(facts, pool, growth * work.decode) if pool is Pool.DECODE else None
    return max(guarded, want if placed is None else min(want, placed))


def _beta(pool: Pool) -> float:
    return MARGIN_PREFILL if pool is Pool.PREFILL else MARGIN_DECODE


def _growth(facts: Facts, pool: Pool) -> float:
    settings, known = facts.settings, {p: w.total for p, w in facts.work.items() if w.unknown is None}
    factor = spare(facts.errors.get(pool, Errors())) if settings.past_errors else 1.0
    if settings.trend and len(known) == len(facts.work):
        ahead_s = facts.horizon_s + (facts.seen.window_s / 2.0 if settings.ramps else 0.0)
        error = facts.demand.standard_error
        factor *= trend(facts.memory.past, facts.now_s, known, error, ahead_s, settings.ramps)
    return factor


def _placed(facts: Facts, pool: Pool, u: float) -> float | None:
    """Replicas that hold the residents of this work, chance included, at the widest batch that every target and the
    memory allow. Less than the square root margin where the planned width is a tile: then steps may be wider."""
    capacity = facts.capacity[pool]
    if not facts.settings.hard_width or not capacity.width or not capacity.widest:
        return None
    residents = u * capacity.width
    deviation = math.sqrt(residents * peakedness(_dispersion(facts)))
    return (residents + RESIDENT_SIGMAS * deviation) / capacity.widest


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
    if any(b.burn > 1.0 and is_queueing(facts, pool, b.allowed) for b in found):
        beyond = max((b.burn - 1.0) * b.weight for b in found)
        rate = LEARNING_RATE * (1.0 if is_calm else UNSETTLED_SHARE)
        step = rate * min(beyond, MAX_BURN) * seconds / LEARNING_PERIOD_S
        return min(MAX_MARGIN, max(0.0, margin) + step)
    return _without_misses(facts, pool, margin, found, seconds) if is_calm else margin


def _is_past(facts: Facts, pool: Pool) -> bool:
    """Whether the last disturbance is in no window of attainment any more."""
    return facts.now_s - facts.memory.unsettled_s.get(pool, -math.inf) >= facts.seen.window_s


def _without_misses(facts: Facts, pool: Pool, margin: float, found: Sequence["Burn"], seconds: float) -> float:
    burn = max((b.burn for b in found), default=0.0)
    if margin > 0.0:
        return margin * math.exp2(-max(0.0, 1.0 - burn) * seconds / MARGIN_HALF_LIFE_S)
    if not found or burn > RELEASE_BURN or not facts.settings.release:
        return margin if burn <= 1.0 else 0.0
    return max(-_beta(pool), margin - RELEASE_RATE * seconds / LEARNING_PERIOD_S)


def is_queueing(facts: Facts, pool: Pool, allowed: float) -> bool:
    """Whether more requests find every replica busy than may be late. If not, the misses have another cause (prompts
    that take longer than their target, say), and more replicas would not help."""
    work, ready = facts.work[pool], facts.pools[pool].ready
    if work.unknown is not None or ready == 0:
        return False
    return late_share(work.total, ready, 0.0, _dispersion(facts)) > allowed


def missed(facts: Facts, pool: Pool) -> str:
    """The worst miss that this pool answers for, in words; empty when there is none."""
    worst = max(burns(facts, pool), key=lambda b: b.burn, default=None)
    return worst.text if worst is not None and worst.burn > 1.0 else ""


class Burn(NamedTuple):
    """`burn`: missed share / allowed share. `weight`: how many misses chance explains by one deviation, at least 1, in
    shares of those allowed; so a miss of many requests is learned as fast as a larger one of few."""

    burn: float
    allowed: float
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
                found.append(Burn((1.0 - attainment.share) / allowed, allowed, weight, text))
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


def _times(tokens_rps: float, tau_s: float | None) -> float | None:
    if tokens_rps == 0.0:
        return 0.0
    return None if tau_s is None else tokens_rps * tau_s


def _dispersion(facts: Facts, class_name: str = "") -> float:
    """Of a class's arrivals, or of all; 1, as of Poisson arrivals, while it is not known."""
    if not facts.settings.dispersion:
        return 1.0
    of_class = {c.name: c.dispersion for c in facts.seen.classes}
    return within(of_class.get(class_name) if class_name else facts.seen.dispersion)


def _strict(facts: Facts, pool: Pool, work: Work, growth: float) -> float:
    """Prompts of the strict class wait for each other and for the step under way, and so few too long as promised."""
    capacity = facts.capacity[pool]
    if not facts.settings.strict or pool is Pool.DECODE or work.prefill <= 0.0:
        return 0.0
    if not capacity.tau_prefill_s or not capacity.mean_square_prompt:
        return 0.0
    service_s = capacity.mean_square_prompt * capacity.tau_prefill_s
    step_s = (capacity.chunk_tokens or 0) * capacity.tau_prefill_s
    strictest = strictest_ttft(facts.goal)
    slack_s = max(STRICT_SLACK_FLOOR_S, strictest.ttft.target_s - service_s - step_s - STRICT_OVERHEAD_S)
    strict = growth * facts.demand.strict_share * work.prefill
    dispersion = _dispersion(facts, strictest.name)
    variable_s = service_s + (dispersion - 1.0) * (facts.demand.prompt_tokens or 0.0) * capacity.tau_prefill_s
    return punctual(strict, slack_s / variable_s, 1.0 - strictest.ttft.share, dispersion) + growth * work.decode


def _work_text(facts: Facts, pool: Pool, work: Work) -> str:
    demand, capacity = facts.demand, facts.capacity[pool]
    if demand.arrivals_rps == 0.0:
        return f"no request in the last {facts.seen.window_s:.0f} s"
    parts = []
    if pool is not Pool.DECODE:
        parts.append(_product(demand.arrivals_rps, demand.prompt_tokens, "prompt", capacity.tau_prefill_s))
    if pool is not Pool.PREFILL:
        parts.append(_product(demand.arrivals_rps, demand.output_tokens, "output", capacity.tau_decode_s))
    known = facts.seen.dispersion is not None and facts.settings.dispersion
    bursts = f", arrivals' dispersion {_dispersion(facts):.1f}" if known else ""
    return f"{' + '.join(parts)} = {work.total:.2f} replicas of work{bursts}"


def _product(rps: float, tokens: float | None, kind: str, tau_s: float | None) -> str:
    cost = "unknown" if tau_s is None else f"{1000 * tau_s:.3g} ms"
    return f"{rps:.2f} req/s x {tokens or 0.0:.0f} {kind} tokens x {cost}"
