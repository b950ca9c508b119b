"""What no pool may shrink on: a part of the load that nobody saw is not an idle part. Pure.

Growth needs no such care: what is known asks for it already, and what is unknown can only add to that.
"""

import math
from dataclasses import replace

from llmservice_core.model import Pool, PoolGoal, Reason
from llmservice_core.planner_facts import Draft, Facts

Doubt = tuple[Reason, str]


def doubt(facts: Facts, goal: PoolGoal, draft: Draft) -> Draft:
    """A pool whose load may be larger than what was seen keeps at least its present size."""
    found = None if draft.is_held else _routers(facts) or _prompts(facts, goal.pool) or _decodes(facts, goal.pool)
    if found is None:
        return draft
    reason, why = found
    desired = facts.pools[goal.pool].desired
    if math.ceil(draft.want - 1e-9) >= desired:
        return replace(draft, is_doubted=True)
    why = f"not reduced: {why}; {draft.why}"
    return replace(draft, want=float(desired), driver=reason, why=why, is_held=True, is_doubted=True)


def _routers(facts: Facts) -> Doubt | None:
    unscraped = facts.seen.unscraped_routers
    if unscraped == 0:
        return None
    return Reason.METRICS_MISSING, f"more may arrive than is counted, {unscraped} of the Ready routers not scraped"


def _prompts(facts: Facts, pool: Pool) -> Doubt | None:
    """Of a pool that prefills: what waits, and how long that takes."""
    waiting, capacity = facts.seen.waiting_prompt_tokens, facts.capacity[pool]
    if pool is Pool.DECODE or waiting == 0.0:
        return None
    if waiting is None:
        return Reason.METRICS_MISSING, "no router says how many prompt tokens wait"
    if capacity.tau_prefill_s is not None:
        return None
    return Reason.CAPACITY_UNKNOWN, f"{waiting:.0f} prompt tokens wait, their cost is unknown ({capacity.unknown})"


def _decodes(facts: Facts, pool: Pool) -> Doubt | None:
    """Of a pool that decodes: how many requests are in it, and how many fit in a replica."""
    seen = facts.pools[pool]
    if pool is Pool.PREFILL or seen.ready + seen.starting == 0:
        return None
    if seen.unscraped > 0:
        why = f"{seen.unscraped} of {seen.ready} Ready engines not scraped, what decodes there is unknown"
        return Reason.CAPACITY_UNKNOWN, why
    if seen.running_decodes is None or (pool is Pool.DECODE and seen.waiting is None):
        return Reason.CAPACITY_UNKNOWN, "no engine says how many requests decode or wait to"
    count = seen.running_decodes + ((seen.waiting or 0.0) if pool is Pool.DECODE else 0.0)
    if count == 0.0 or facts.capacity[pool].width:
        return None
    why = f"{count:.0f} requests decode or wait to, how many fit in a replica is unknown"
    return Reason.CAPACITY_UNKNOWN, f"{why} ({facts.capacity[pool].unknown})"
