"""What the steps of a plan share: all that they may look at, and the wish that they hand on. Pure; decides nothing."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from llmservice_core.capacity import PoolCapacity
from llmservice_core.model import Goal, Observation, Pool, PoolGoal, PoolSeen, Reason
from llmservice_core.planner_demand import Demand
from llmservice_core.planner_forecast import Errors
from llmservice_core.planner_memory import Memory

DEFAULT_START_UP_S: Final = 120.0
MOST_START_UP_S: Final = 1800.0
"""A pod that took longer from created to Ready did not start, it waited for somebody to free or buy a GPU. Twice the
time that weights may take to load, so that a node which an autoscaler must bring first still counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Replicas' worth of work of one pool: `prefill` = lambda E[v_p] tau_P, `decode` = lambda E[v_d] tau_D."""

    prefill: float = 0.0
    decode: float = 0.0
    unknown: str | None = None
    reason: Reason = Reason.CAPACITY_UNKNOWN

    @property
    def total(self) -> float:
        return self.prefill + self.decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Steps of the plan that can be left out, to measure what each is worth. Production leaves none out."""

    trend: bool = True
    """Growth of the work is extrapolated over the start-up time."""
    ramps: bool = True
    """Steady growth is extrapolated in full, from the middle of the window that its rate was counted in."""
    past_errors: bool = True
    """A margin by the forecast's own past errors."""
    square_root: bool = True
    """Square root staffing above the work."""
    strict: bool = True
    """The strictest class has a constraint of its own."""
    dispersion: bool = True
    """Arrivals that come together are measured; else they count as Poisson."""
    hard_width: bool = True
    """The decode margin ends where batches as wide as every target allows would hold the residents."""
    backlog: bool = True
    slack: bool = True
    """Decode engines compute prompts where the goal allows it, and prefill is spared them."""
    feedback: bool = True
    """A margin from measured misses."""
    release: bool = True
    """Less margin than the law's own after a long time without misses."""
    stabilise: bool = True
    flips: bool = False
    """Replicas change their pool where a start takes long. Nobody relabels pods in a cluster yet: off in production."""
    slo_gain: bool = True
    """A budget that is too small goes where it keeps most promises, by class weights."""


ALL_STEPS: Final = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the steps may look at."""

    goal: Goal
    seen: Observation
    now_s: float
    memory: Memory
    demand: Demand
    pools: Mapping[Pool, PoolSeen]
    capacity: Mapping[Pool, PoolCapacity]
    work: Mapping[Pool, Work]
    errors: Mapping[Pool, Errors] = field(default_factory=dict)
    """Of past forecasts, the one for now included."""
    settings: Settings = ALL_STEPS

    @property
    def horizon_s(self) -> float:
        """How far ahead a plan looks: a pod asked for now serves then, and counters are two scrapes old by then."""
        return min(MOST_START_UP_S, self.start_up_s) + 2.0 * (self.seen.scrape_gap_s or self.goal.interval_s)

    @property
    def start_up_s(self) -> float:
        return self.seen.start_up_s if self.seen.start_up_s is not None else DEFAULT_START_UP_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """`driver` is the reason that moved the wish last; `why` its sentence. A held pool keeps its present size."""

    want: float
    driver: Reason
    why: str
    is_held: bool = False
    is_catching_up: bool = False
    """Replicas are wanted, or kept, for a backlog: what is missed meanwhile says nothing about the margin."""
    is_doubted: bool = False
    """The load may be larger than what was seen."""

    @property
    def keeps(self) -> bool:
        """No fewer replicas than there are, whatever others need."""
        return self.is_held or self.is_doubted


@dataclass(frozen=True, slots=True, kw_only=True)
class Stabilised:
    """Whole replicas after the window: the largest recent want. `held` says why it is more than wanted now."""

    replicas: int
    wanted: int
    held: Reason | None = None
    why: str = ""


Drafts = Mapping[Pool, Draft]
PoolStep = Callable[[Facts, PoolGoal, Draft], Draft]


def each(step: PoolStep, facts: Facts, drafts: Drafts) -> Drafts:
    return {p.pool: step(facts, p, drafts[p.pool]) for p in facts.goal.pools}


def raised(facts: Facts, pool: Pool, draft: Draft, want: float, reason: Reason, why: str) -> Draft:
    """Takes the larger wish; it becomes the reason only if it is what asks for one more whole replica now."""
    if want <= draft.want:
        return draft
    desired = facts.pools[pool].desired
    if math.ceil(want - 1e-9) > max(math.ceil(draft.want - 1e-9), desired):
        return replace(draft, want=want, driver=reason, why=f"{why}; {draft.why}")
    return replace(draft, want=want)
