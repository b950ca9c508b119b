"""Whether a service may have no engines at all: pools whose minimum is 0 sleep after a time without requests. Pure.

A service sleeps as a whole, for a prefill pool without a decode pool serves nobody. It is put to sleep only by what is
known: every router that runs says for how long it has had no request, and Prometheus is readable and counts no arrival.
It is woken by less: one request that came lately. Level-triggered, no state: the sizes say whether it sleeps.
"""

from dataclasses import dataclass, replace
from typing import Final

from llmservice_core.model import Goal, Observation, Reason
from llmservice_core.planner_facts import Draft, Drafts

SLEEP: Final = "sleep"
"""Name of the step in the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """`goal`: with the minima that hold now. `why`: a sentence for the record; empty where no pool may have 0."""

    goal: Goal
    reason: Reason | None = None
    """ScaledToZero while it sleeps or is put to sleep, Waking in the decision that wakes it."""
    why: str = ""
    is_new: bool = False
    """It is awake and would be put to sleep."""

    def if_known(self, drafts: Drafts) -> "Rest":
        """Not put to sleep while the load of a pool is not known in full."""
        kept = [f"{pool}: {draft.why}" for pool, draft in drafts.items() if draft.keeps]
        if not self.is_new or not kept:
            return self
        return Rest(goal=_awake(self.goal), why=f"awake: {'; '.join(kept)}")

    def drafts(self, drafts: Drafts) -> Drafts:
        """Wishes as they are, unless the service sleeps (nothing) or wakes (a first replica in each pool, at least)."""
        if self.reason is Reason.SCALED_TO_ZERO:
            return {pool: Draft(want=0.0, driver=self.reason, why=self.why) for pool in drafts}
        if self.reason is Reason.WAKING:
            return {p: Draft(want=max(1.0, d.want), driver=self.reason, why=self.why) for p, d in drafts.items()}
        return drafts


def rest(goal: Goal, seen: Observation, *, is_readable: bool) -> Rest:
    """`is_readable`: Prometheus has fresh samples."""
    if not goal.may_sleep:
        return Rest(goal=_awake(goal))
    if _is_asleep(goal, seen):
        call = _call(goal, seen, is_readable)
        if call:
            return Rest(goal=_awake(goal), reason=Reason.WAKING, why=f"woken: {call}")
        return Rest(goal=goal, reason=Reason.SCALED_TO_ZERO, why=_silence(seen))
    if doubt := _doubt(goal, seen, is_readable):
        return Rest(goal=_awake(goal), why=f"awake: {doubt}")
    return Rest(goal=goal, reason=Reason.SCALED_TO_ZERO, why=_silence(seen), is_new=True)


def _awake(goal: Goal) -> Goal:
    return replace(goal, pools=tuple(replace(p, min_replicas=max(1, p.min_replicas)) for p in goal.pools))


def _is_asleep(goal: Goal, seen: Observation) -> bool:
    """A pool that does not exist yet is about to start at its minimum, which is 0."""
    desired = {p.pool: p.desired for p in seen.pools}
    return all(desired.get(p.pool, 0) == 0 for p in goal.pools)


def _call(goal: Goal, seen: Observation, is_readable: bool) -> str:
    """Who calls a service that sleeps; empty: nobody, or nobody knows. Prometheus is the second voice."""
    calls = seen.calls
    if calls is not None and calls.waiting > 0:
        return f"{calls.waiting} requests wait in the routers"
    if calls is not None and calls.last_s is not None and calls.last_s < goal.idle_after_s:
        return f"a request came {calls.last_s:.0f} s ago"
    if calls is not None or not is_readable:
        return ""
    arrivals = sum(c.recent_rps or 0.0 for c in seen.classes)
    if arrivals > 0.0 or seen.waiting_prompt_tokens:
        return f"{arrivals:.2f} req/s arrive, {seen.waiting_prompt_tokens or 0:.0f} prompt tokens wait"
    return ""


def _doubt(goal: Goal, seen: Observation, is_readable: bool) -> str:
    """Why a service that is awake stays so; empty when everybody knows of no request for long enough."""
    calls = seen.calls
    if calls is None:
        return "a router did not say whether it has requests"
    if calls.waiting > 0 or calls.quiet_s < goal.idle_after_s:
        return f"no request for {calls.quiet_s:.0f} s, sleeps after {goal.idle_after_s:g} s"
    if not is_readable:
        return f"no request for {calls.quiet_s:.0f} s, but metrics are missing or old"
    if seen.unscraped_routers or seen.waiting_prompt_tokens != 0.0:
        return "not every router is in Prometheus, or prompts wait there"
    if any(c.recent_rps != 0.0 for c in seen.classes):
        return "Prometheus counts arrivals, or does not know of all classes"
    return ""


def _silence(seen: Observation) -> str:
    calls = seen.calls
    if calls is None:
        return "no request is known of: no router answers"
    return "no request since the routers started" if calls.last_s is None else f"no request for {calls.last_s:.0f} s"
