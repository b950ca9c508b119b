"""Work that waits already, beside what arrives: queued prompts, decodes under way, a blind pool's queue. Pure."""

import math
from dataclasses import replace
from typing import Final

from llmservice_core.model import Pool, PoolGoal, Reason
from llmservice_core.planner_facts import MOST_START_UP_S, Draft, Facts, raised

BACKLOG_FREE_S: Final = 0.25
"""Queued work per prefill replica that is no backlog: what its next few steps take."""
BACKLOG_START_UPS: Final = 2.5
BACKLOG_MIN_DRAIN_S: Final = 60.0
"""A backlog is to be gone after so many start-ups (study: 300 s at 120 s). Faster, and one burst eats the budget."""
POPULATION_SIGMAS: Final = 2.0
"""Residents above the planned widths count as work once they lie this many Poisson deviations above."""
BLIND_QUEUE_STEPS: Final = 32.0
BLIND_QUEUE_REQUESTS: Final = 4.0
"""With unknown capacity, a queue beyond so many full steps or requests per replica is a visible backlog."""


def backlog(facts: Facts, goal: PoolGoal, draft: Draft) -> Draft:
    """Work that waits already, on top of what arrives; also the only voice of a pool whose capacity is unknown."""
    if not facts.settings.backlog:
        return draft
    if draft.is_held:
        return _blind_backlog(facts, goal, draft)
    extra, why = 0.0, ""
    if goal.pool is not Pool.DECODE:
        extra, why = prompt_backlog(facts, goal.pool)
    floor, residents = (0.0, "") if goal.pool is Pool.PREFILL else _residents(facts, goal.pool)
    want = max(draft.want + extra, floor)
    why = residents if floor > draft.want + extra else why
    raised_to = raised(facts, goal.pool, draft, want, Reason.BACKLOG, why)
    return replace(raised_to, is_catching_up=math.ceil(want - 1e-9) > math.ceil(draft.want - 1e-9))


def prompt_backlog(facts: Facts, pool: Pool) -> tuple[float, str]:
    """Replicas that empty the prompt queue within the drain time, beside those that keep up with arrivals."""
    waiting, tau_s = facts.seen.waiting_prompt_tokens, facts.capacity[pool].tau_prefill_s
    if not waiting or tau_s is None:
        return 0.0, ""
    queued_s = waiting * tau_s - BACKLOG_FREE_S * facts.pools[pool].ready
    drain_s = min(MOST_START_UP_S, max(BACKLOG_MIN_DRAIN_S, BACKLOG_START_UPS * facts.start_up_s))
    text = f"{waiting:.0f} prompt tokens wait, {waiting * tau_s:.1f} s of work to be done in {drain_s:.0f} s"
    return max(0.0, queued_s) / drain_s, text


def _residents(facts: Facts, pool: Pool) -> tuple[float, str]:
    """Replicas that hold, at the planned width, the decodes that are there now, beyond chance."""
    seen, width = facts.pools[pool], facts.capacity[pool].width
    if seen.running_decodes is None or not width:
        return 0.0, ""
    count = seen.running_decodes + ((seen.waiting or 0.0) if pool is Pool.DECODE else 0.0)
    beyond = max(0.0, count - POPULATION_SIGMAS * math.sqrt(count))
    return beyond / width, f"{count:.0f} requests decode or wait to, planned width {width} per replica"


def _blind_backlog(facts: Facts, goal: PoolGoal, draft: Draft) -> Draft:
    """One replica more, one at a time, when a queue is plain to see although nothing else is known."""
    seen = facts.pools[goal.pool]
    why = _visible_queue(facts, goal.pool)
    settled = max(goal.min_replicas, min(seen.desired, goal.max_replicas))
    if not why or seen.starting or seen.unschedulable or seen.ready != settled:
        return draft
    return replace(draft, want=settled + 1.0, driver=Reason.BACKLOG, why=f"{why}; one more although {draft.why[6:]}")


def _visible_queue(facts: Facts, pool: Pool) -> str:
    seen, tokens = facts.pools[pool], facts.seen.waiting_prompt_tokens
    budget = seen.limits.max_batched_tokens if seen.limits else None
    ready = max(1, seen.ready)
    if pool is not Pool.DECODE and tokens and budget and tokens > BLIND_QUEUE_STEPS * budget * ready:
        return f"{tokens:.0f} prompt tokens wait for {ready} replicas with {budget:.0f} per step"
    if seen.waiting is not None and seen.waiting > BLIND_QUEUE_REQUESTS * ready:
        return f"{seen.waiting:.0f} requests wait in {ready} engines"
    return ""
