"""The frozen records that cross the seams: what goes into a decision and what comes out of it. No behaviour but sums.

Unknown is None, never 0. Times are seconds since the epoch, durations seconds, tokens as the engine counts them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Pool(StrEnum):
    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"


class Mode(StrEnum):
    AUTO = "Auto"
    RECOMMEND = "Recommend"
    OFF = "Off"


class Reason(StrEnum):
    """Why a size is what it is. Status, events, logs and metrics all use these constants."""

    STEADY = "Steady"
    DEMAND_UP = "DemandUp"
    DEMAND_DOWN = "DemandDown"
    BACKLOG = "Backlog"
    SLO_MISS = "SLOMiss"
    BUDGET_LIMITED = "BudgetLimited"
    AT_MAXIMUM = "AtMaximum"
    AT_MINIMUM = "AtMinimum"
    METRICS_STALE = "MetricsStale"
    METRICS_MISSING = "MetricsMissing"
    CAPACITY_UNKNOWN = "CapacityUnknown"
    UNSCHEDULABLE = "Unschedulable"
    STABILIZING = "Stabilizing"
    WARMING_UP = "WarmingUp"
    SCALED_TO_ZERO = "ScaledToZero"
    WAKING = "Waking"
    MANUAL = "Manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """One target: `percentile` per cent of the events must lie within `target_s` seconds."""

    target_s: float
    percentile: float

    @property
    def share(self) -> float:
        return self.percentile / 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceClass:
    name: str
    ttft: Slo
    tbt: Slo
    weight: float = 1.0
    is_default: bool = False
    sheds_late: bool = False
    """Routers refuse a request early that would miss its TTFT target anyway, instead of letting it wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolGoal:
    pool: Pool
    min_replicas: int
    max_replicas: int
    gpus_per_replica: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the owner of the service asked for. `gpu_budget` None: only the pools' maxima limit it."""

    classes: tuple[ServiceClass, ...]
    pools: tuple[PoolGoal, ...]
    mode: Mode
    gpu_budget: int | None
    interval_s: float
    target_load: float
    stabilization_s: float | None
    """None: auto, the observed start-up time."""
    idle_after_s: float = 300.0
    """How long no request must have come before pools whose minimum is 0 are all put to sleep."""
    decode_takes_prefill: bool = False
    """Decode engines may compute prompts in the time that the tightest TBT leaves them, if they keep mixed steps within
    it by themselves."""

    @property
    def may_sleep(self) -> bool:
        """All or none: a pool without the other one serves nobody."""
        return all(p.min_replicas == 0 for p in self.pools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attainment:
    """Counted events of one class and one target over the window; `share` is None without events."""

    target_s: float
    events: float
    good: float

    @property
    def share(self) -> float | None:
        return self.good / self.events if self.events > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTraffic:
    """What one class asked for and got. Arrivals include shed and refused requests; tokens are means per request."""

    name: str
    arrivals_rps: float | None
    prompt_tokens: float | None
    """Uncached prompt tokens per request, E[v_p]."""
    output_tokens: float | None
    """E[v_d]."""
    ttft: Attainment | None
    tbt: Attainment | None
    recent_rps: float | None = None
    """Arrivals over the last few scrapes only: shows a jump that the longer window still hides."""
    dispersion: float | None = None
    """Variance over mean of the arrivals between two scrapes: 1 when they are Poisson."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """Sums over the engine steps of one kind in the window, added up over pods (see metric_names.FEATURES).

    `xx` holds the upper triangle by (i, j); `xy` per feature with y in seconds.
    """

    kind: str
    steps: float
    seconds: float
    xx: Mapping[tuple[int, int], float]
    xy: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What an engine of the pool can hold, as it says itself."""

    kv_tokens: float | None
    max_batched_tokens: float | None
    max_seqs: float | None
    tile_tokens: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSeen:
    """Replicas of one pool as the cluster shows them; `desired` is what is written there now."""

    pool: Pool
    desired: int
    ready: int
    starting: int
    draining: int
    unschedulable: int
    recallable: int = 0
    """Of the draining ones, those that may still stay: growth takes them back before it starts others."""
    limits: EngineLimits | None = None
    steps: tuple[StepStats, ...] = ()
    recent_steps: tuple[StepStats, ...] = ()
    """The same sums over the last half minute or so: the lengths that traffic has now, where `steps` learns slowly."""
    waiting: float | None = None
    """Requests waiting in the engines of this pool."""
    running_decodes: float | None = None
    """Sequences in their decode phase in the engines of this pool."""
    unscraped: int = 0
    """Engines that have been Ready for long enough and still have no sample: the numbers above lack theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What the routers of a service say at this very moment, all that run taken together."""

    quiet_s: float
    """For how long none of them has had a request; a router knows nothing of the time before its own start."""
    last_s: float | None
    """Since a request last came or ended, 0 while one is open; None: none came since they started."""
    waiting: int
    """Requests that no engine has taken yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything one decision may know. `newest_sample_s` is the time of the newest scraped sample, None if none."""

    time_s: float
    newest_sample_s: float | None
    scrape_gap_s: float | None
    window_s: float
    classes: tuple[ClassTraffic, ...]
    pools: tuple[PoolSeen, ...]
    waiting_prompt_tokens: float | None
    """Predicted tokens of prompts that no prefill has finished."""
    start_up_s: float | None
    """Observed created-to-Ready time (p90) of recent engine pods, without those that waited for a GPU for long."""
    recent_window_s: float | None = None
    """Length of the window behind `ClassTraffic.recent_rps`."""
    dispersion: float | None = None
    """As `ClassTraffic.dispersion`, of all classes together."""
    problem: str | None = None
    """Why metrics are missing, in words for a person: the sentence of condition MetricsAvailable."""
    unscraped_routers: int = 0
    """Routers that have been Ready for long enough and still have no sample: arrivals lack theirs."""
    calls: Calls | None = None
    """None: not asked, or a router that runs did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One named step of a plan and the sizes it left, so that a reader can follow the sum."""

    name: str
    sizes: Mapping[Pool, float]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    pool: Pool
    replicas: int
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """So many replicas of `source` are to serve in `target`; both sizes of the plan count with it."""

    source: Pool
    target: Pool
    count: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One decision with its inputs. `load` is lambda d / g of Theorem 1, None while capacity is unknown."""

    time_s: float
    pools: tuple[PoolPlan, ...]
    reason: Reason
    message: str
    inputs: Mapping[str, float | None] = field(default_factory=dict)
    capacity: Mapping[str, float | None] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    load: float | None = None
    flip: Flip | None = None
    """Whoever cannot flip removes and starts pods instead."""

    def replicas(self, pool: Pool) -> int | None:
        return next((p.replicas for p in self.pools if p.pool is pool), None)
