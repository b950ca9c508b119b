"""The steps of a plan, each a pure function from drafts to drafts with one sentence that says what it did.

A draft is a wish for one pool in real-valued replicas. `planner.plan` calls the steps in order; limits come after.
RAD (arXiv 2508.01002) sizes one pool of nodes that time-share both phases; a pool per phase is our transposition.
"""

import math
from dataclasses import replace
from typing import Final

from llmservice_core.capacity import PoolCapacity
from llmservice_core.model import Pool, PoolGoal, Reason
from llmservice_core.planner_demand import Demand, strictest_ttft
from llmservice_core.planner_facts import Draft, Facts, Work
from llmservice_core.planner_forecast import Errors, spare, trend
from llmservice_core.queueing import peakedness, punctual, within

MARGINS: Final = {Pool.PREFILL: 0.10, Pool.DECODE: 0.35, Pool.MIXED: 0.35}
"""Square root staffing above the work (sizing study): decode needs more, as a late pod breaks TBT for all it holds."""
STRICT_OVERHEAD_S: Final = 0.05
STRICT_SLACK_FLOOR_S: Final = 0.10
"""Of a TTFT target: spent outside prefill, and the least that counts as left for queueing."""
RESIDENT_SIGMAS: Final = 3.0
"""So many deviations above the mean of the residents of a decode pool must find a place."""


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
    released = min(0.0, facts.memory.margins.get(pool, 0.0)) * math.sqrt(u)
    guarded = max(u / facts.goal.target_load, _strict(facts, pool, work, growth) + released)
    if not facts.settings.square_root:
        return guarded
    want = u + MARGINS[pool] * math.sqrt(u) + released
    placed = _placed(facts, pool, growth * work.decode) if pool is Pool.DECODE else None
    return max(guarded, want if placed is None else min(want, placed))


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
    deviation = math.sqrt(residents * peakedness(dispersion_of(facts)))
    return (residents + RESIDENT_SIGMAS * deviation) / capacity.widest


def _times(tokens_rps: float, tau_s: float | None) -> float | None:
    if tokens_rps == 0.0:
        return 0.0
    return None if tau_s is None else tokens_rps * tau_s


def dispersion_of(facts: Facts, class_name: str = "") -> float:
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
    dispersion = dispersion_of(facts, strictest.name)
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
    bursts = f", arrivals' dispersion {dispersion_of(facts):.1f}" if known else ""
    return f"{' + '.join(parts)} = {work.total:.2f} replicas of work{bursts}"


def _product(rps: float, tokens: float | None, kind: str, tau_s: float | None) -> str:
    cost = "unknown" if tau_s is None else f"{1000 * tau_s:.3g} ms"
    return f"{rps:.2f} req/s x {tokens or 0.0:.0f} {kind} tokens x {cost}"
