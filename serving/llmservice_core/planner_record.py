"""Puts a decision into words and numbers: the reason of each pool, and the inputs a reader needs to redo the sum."""

from collections.abc import Mapping, Sequence

from llmservice_core.model import Pool, PoolGoal, PoolPlan, PoolSeen, Reason
from llmservice_core.planner_facts import Draft, Facts

IMPORTANCE = (
    Reason.WAKING,
    Reason.SCALED_TO_ZERO,
    Reason.METRICS_MISSING,
    Reason.METRICS_STALE,
    Reason.UNSCHEDULABLE,
    Reason.SLO_MISS,
    Reason.BACKLOG,
    Reason.BUDGET_LIMITED,
    Reason.AT_MAXIMUM,
    Reason.DEMAND_UP,
    Reason.DEMAND_DOWN,
    Reason.CAPACITY_UNKNOWN,
    Reason.WARMING_UP,
    Reason.STABILIZING,
    Reason.STEADY,
    Reason.AT_MINIMUM,
)
"""Which pool's reason stands for the whole plan, when none or several change."""


def pool_plan(
    *,
    goal: PoolGoal,
    seen: PoolSeen,
    draft: Draft,
    replicas: int,
    wanted: int,
    held: tuple[Reason, str] | None,
    budget_text: str,
) -> PoolPlan:
    reason, why = _reason(goal, seen, draft, replicas, wanted, held, budget_text)
    size = f"{replicas}" if replicas == seen.desired else f"{seen.desired} -> {replicas}"
    return PoolPlan(pool=goal.pool, replicas=replicas, reason=reason, message=f"{size}: {why}")


def overall(pools: Sequence[PoolPlan], desired: Mapping[Pool, int]) -> tuple[Reason, str]:
    """A pool that changes speaks first, then the more important reason."""
    first = min(pools, key=lambda p: (p.replicas == desired[p.pool], IMPORTANCE.index(p.reason)))
    return first.reason, "; ".join(f"{p.pool} {p.message}" for p in pools)


def inputs_of(facts: Facts) -> dict[str, float | None]:
    """Everything measured that the sum started from; None is unknown."""
    demand, seen = facts.demand, facts.seen
    age_s = None if seen.newest_sample_s is None else facts.now_s - seen.newest_sample_s
    per_pool: dict[str, float | None] = {}
    for pool, state in facts.pools.items():
        work = facts.work[pool]
        per_pool[f"{pool}.work"] = None if work.unknown else work.total
        per_pool[f"{pool}.waiting"] = state.waiting
        per_pool[f"{pool}.margin"] = facts.memory.margins.get(pool, 0.0)
    return {
        "arrivals_rps": None if demand.unknown and not demand.is_warming_up else demand.arrivals_rps,
        "prompt_tokens": demand.prompt_tokens,
        "output_tokens": demand.output_tokens,
        "waiting_prompt_tokens": seen.waiting_prompt_tokens,
        "start_up_s": seen.start_up_s,
        "metrics_age_s": age_s,
        **per_pool,
    }


def capacity_of(facts: Facts) -> dict[str, float | None]:
    """RAD's quantities per pool as learned; a cost that the pool does not need is left out."""
    found: dict[str, float | None] = {}
    for pool, c in facts.capacity.items():
        if pool is not Pool.DECODE:
            found[f"{pool}.tau_prefill_s"] = c.tau_prefill_s
            found[f"{pool}.chunk_tokens"] = c.chunk_tokens
        if pool is not Pool.PREFILL:
            found[f"{pool}.tau_decode_s"] = c.tau_decode_s
            found[f"{pool}.width"] = c.width
        found[f"{pool}.steps"] = c.steps
    return found


def load_of(facts: Facts) -> float | None:
    """lambda d / g of Theorem 1 of the fullest pool, over the replicas that serve now; above 1 its queue never ends.

    Unknown as soon as one pool's is: that one may be the fullest.
    """
    if any(facts.work[p].unknown or s.ready == 0 for p, s in facts.pools.items()):
        return None
    return max((facts.work[p].total / s.ready for p, s in facts.pools.items()), default=None)


def _reason(
    goal: PoolGoal,
    seen: PoolSeen,
    draft: Draft,
    replicas: int,
    wanted: int,
    held: tuple[Reason, str] | None,
    budget_text: str,
) -> tuple[Reason, str]:
    if draft.driver is Reason.SCALED_TO_ZERO:
        return draft.driver, draft.why
    if wanted > replicas:
        return _limited(goal, seen, draft, replicas, wanted, budget_text)
    if draft.is_held and draft.driver is not Reason.BACKLOG:
        return draft.driver, draft.why
    if replicas > seen.desired:
        return (draft.driver if wanted == replicas else Reason.AT_MINIMUM), draft.why
    if replicas < seen.desired:
        return Reason.DEMAND_DOWN, draft.why
    if held is not None:
        return held[0], f"{held[1]}; {draft.why}"
    if draft.driver is Reason.SLO_MISS:
        return Reason.SLO_MISS, draft.why
    return (Reason.AT_MINIMUM if wanted < replicas else Reason.STEADY), draft.why


def _limited(
    goal: PoolGoal, seen: PoolSeen, draft: Draft, replicas: int, wanted: int, budget_text: str
) -> tuple[Reason, str]:
    """Wanted more than it gets: the cluster has no place, the pool is at its maximum, or the budget is spent."""
    # A pool that keeps its size loses nothing for want of a node: only its maximum or the budget can have cut it.
    is_cut = draft.keeps and replicas < seen.desired
    if seen.unschedulable > 0 and not is_cut:
        return Reason.UNSCHEDULABLE, f"{seen.unschedulable} pods find no node, {wanted} wanted; {draft.why}"
    if replicas >= goal.max_replicas:
        return Reason.AT_MAXIMUM, f"{wanted} wanted, maxReplicas {goal.max_replicas}; {draft.why}"
    return Reason.BUDGET_LIMITED, f"{wanted} wanted, {budget_text}; {draft.why}"
