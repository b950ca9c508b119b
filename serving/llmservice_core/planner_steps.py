"""The steps of a plan, each a pure function from drafts to drafts with one sentence that says what it did.

A draft is a wish for one pool in real-valued replicas. `planner.plan` calls the steps in order; limits come after.
RAD (arXiv 2508.01002) sizes one pool of nodes that time-share both phases; a pool per phase is our transposition.
"""

import math
from dataclasses import replace
from typing import Final

from llmservice_core.capacity import PoolCapacity
from llmservice_core.model import Pool, PoolGoal, Reason
from llmservice_core.planner_backlog import prompt_backlog
from llmservice_core.planner_demand import Demand, strictest_ttft
from llmservice_core.planner_facts import Draft, Facts, Work, raised

MARGIN_PREFILL: Final = 0.10
MARGIN_DECODE: Final = 0.35
MARGIN_STRICT: Final = 1.0
"""Square root staffing above the work (sizing study): decode needs more, as a late pod breaks TBT for all it holds."""
STRICT_OVERHEAD_S: Final = 0.05
STRICT_SLACK_FLOOR_S: Final = 0.10
"""Of a TTFT target: spent outside prefill, and the least that counts as left for queueing."""
MIN_EVENTS: Final = 20.0
LEARNING_RATE: Final = 0.02
LEARNING_PERIOD_S: Final = 15.0
MAX_BURN: Final = 10.0
MARGIN_HALF_LIFE_S: Final = 600.0
MAX_MARGIN: Final = 1.0
"""Margin learning (after the study's conformal one): m += rate x (miss / allowed - 1) per period, else decay."""


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
    u = work.total
    beta = MARGIN_PREFILL if goal.pool is Pool.PREFILL else MARGIN_DECODE
    want = max(u + beta * math.sqrt(u), u / facts.goal.target_load, _strict(facts, goal.pool, work))
    desired = facts.pools[goal.pool].desired
    driver = Reason.DEMAND_UP if want > desired else Reason.DEMAND_DOWN
    return Draft(want=want, driver=driver, why=_work_text(facts, goal.pool, work))


def feedback(facts: Facts, goal: PoolGoal, draft: Draft) -> Draft:
    """Adds the learned margin; while the SLO is missed the pool keeps at least its present size."""
    if draft.is_held:
        return draft
    margin = facts.memory.margins.get(goal.pool, 0.0)
    miss = missed(facts, goal.pool)
    want = draft.want + margin * math.sqrt(facts.work[goal.pool].total)
    grown = raised(facts, goal.pool, draft, want, Reason.SLO_MISS, f"{miss or 'earlier misses'}: margin {margin:.2f}")
    desired = facts.pools[goal.pool].desired
    if not miss or math.ceil(grown.want) >= desired:
        return grown
    return replace(grown, want=float(desired), driver=Reason.SLO_MISS, why=f"not reduced while {miss}")


def is_settled(facts: Facts, pool: Pool) -> bool:
    """All pods that are wanted serve, and no prompt backlog is left: what is missed now, the law has missed."""
    seen = facts.pools[pool]
    moving = seen.starting > 0 or seen.unschedulable > 0 or seen.ready != seen.desired
    return not moving and (pool is Pool.DECODE or prompt_backlog(facts, pool)[0] <= 0.0)


def learned_margin(facts: Facts, pool: Pool) -> float:
    """The margin for the next plan, from windows of attainment that lie wholly after the last disturbance."""
    margin = facts.memory.margins.get(pool, 0.0)
    disturbed_s = facts.memory.unsettled_s.get(pool, -math.inf)
    if not is_settled(facts, pool) or facts.now_s - disturbed_s < facts.seen.window_s:
        return margin
    seconds = min(max(0.0, facts.now_s - facts.memory.updated_s), 4 * LEARNING_PERIOD_S)
    burn = max((b for b, _ in burns(facts, pool)), default=0.0)
    if burn > 1.0:
        step = LEARNING_RATE * min(burn - 1.0, MAX_BURN) * seconds / LEARNING_PERIOD_S
        return min(MAX_MARGIN, margin + step)
    return margin * math.exp2(-seconds / MARGIN_HALF_LIFE_S)


def missed(facts: Facts, pool: Pool) -> str:
    """The worst miss that this pool answers for, in words; empty when there is none."""
    burn, text = max(burns(facts, pool), default=(0.0, ""))
    return text if burn > 1.0 else ""


def burns(facts: Facts, pool: Pool) -> list[tuple[float, str]]:
    """(missed share / allowed share, sentence) of each class and SLO that this pool answers for.

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
                found.append(((1.0 - attainment.share) / allowed, f"{text} (target {slo.percentile:g} %)"))
    return found


def _answers(facts: Facts, pool: Pool, slo: str) -> bool:
    if pool is Pool.MIXED:
        return True
    if slo == "TBT":
        return pool is Pool.DECODE
    return (pool is Pool.DECODE) is _decode_waits(facts)


def _decode_waits(facts: Facts) -> bool:
    decode = facts.pools.get(Pool.DECODE)
    return decode is not None and decode.waiting is not None and decode.waiting > max(1, decode.ready)


def _times(tokens_rps: float, tau_s: float | None) -> float | None:
    if tokens_rps == 0.0:
        return 0.0
    return None if tau_s is None else tokens_rps * tau_s


def _strict(facts: Facts, pool: Pool, work: Work) -> float:
    """Prompts of the strict class wait only for each other: f u_P + sqrt(f u_P kappa), kappa = service / slack left."""
    capacity = facts.capacity[pool]
    if pool is Pool.DECODE or work.prefill <= 0.0 or not capacity.tau_prefill_s or not capacity.mean_square_prompt:
        return 0.0
    service_s = capacity.mean_square_prompt * capacity.tau_prefill_s
    target_s = strictest_ttft(facts.goal).ttft.target_s
    kappa = service_s / max(STRICT_SLACK_FLOOR_S, target_s - service_s - STRICT_OVERHEAD_S)
    strict = facts.demand.strict_share * work.prefill
    return strict + MARGIN_STRICT * math.sqrt(strict * kappa) + work.decode


def _work_text(facts: Facts, pool: Pool, work: Work) -> str:
    demand, capacity = facts.demand, facts.capacity[pool]
    if demand.arrivals_rps == 0.0:
        return f"no request in the last {facts.seen.window_s:.0f} s"
    parts = []
    if pool is not Pool.DECODE:
        parts.append(_product(demand.arrivals_rps, demand.prompt_tokens, "prompt", capacity.tau_prefill_s))
    if pool is not Pool.PREFILL:
        parts.append(_product(demand.arrivals_rps, demand.output_tokens, "output", capacity.tau_decode_s))
    return f"{' + '.join(parts)} = {work.total:.2f} replicas of work"


def _product(rps: float, tokens: float | None, kind: str, tau_s: float | None) -> str:
    cost = "unknown" if tau_s is None else f"{1000 * tau_s:.3g} ms"
    return f"{rps:.2f} req/s x {tokens or 0.0:.0f} {kind} tokens x {cost}"
