"""One step of an engine: what a policy sees of it, what it may decide, and the queue that it decides over.

Every policy answers with a `StepPlan`: which decodes run, which wait, which prompts get how many tokens, which may be
admitted, in which order running requests would be pre-empted. Drivers (vLLM's scheduler, the simulated engine) keep the
requests (`Task`), carry a plan out and own blocks. No clock: time is an argument, seconds on the driver's clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from llmservice_core.backlog import Backlog
from llmservice_core.latency import Work

StepTime = Callable[[Work], float]
"""Seconds that a step with this work takes, all that the loop costs included."""
DEFAULT_CLASS = "default"


@dataclass(slots=True, eq=False, kw_only=True)
class Task:
    """One request in an engine; its driver keeps it up to date. Targets None: nobody told us. Compared by identity."""

    prompt_tokens: int
    arrival_s: float
    """When the client's request came, also if it waited elsewhere first."""
    service_class: str = DEFAULT_CLASS
    tenant: str = ""
    ttft_s: float | None = None
    tbt_s: float | None = None
    priority: int = 0
    """Smaller first, before any policy's own order (vLLM's meaning)."""
    expected_output: float | None = None
    """Tokens that a length predictor expects."""
    serial: int = 0
    """Number in the order of coming: the last tie-break."""

    computed: int = 0
    """Tokens whose KV the engine holds; kept up to date while the prompt is unfinished."""
    produced: int = 0
    is_started: bool = False
    """Admitted and not pre-empted since."""
    is_overdue: bool = False
    """It waited longer than its queue promises: it goes before others until its prompt is done."""
    is_remote: bool = False
    """Its prompt's KV comes from another engine: starting it costs one token. Drivers admit it before prompts."""
    last_token_s: float | None = None
    pending_s: float = 0.0
    """Async scheduling: a token is under way that will leave so much later than the last one seen."""
    latest_start_s: float = -math.inf
    """Policies of SLAI's kind: until when its next token may wait to be started."""

    @property
    def known(self) -> int:
        """Prompt and answer so far: what must be in the KV cache before the next token can be sampled."""
        return self.prompt_tokens + self.produced

    @property
    def remaining(self) -> int:
        return self.prompt_tokens + self.produced - self.computed

    @property
    def was_running(self) -> bool:
        """Pre-empted after its first token: its KV is lost, and its client watches a stream."""
        return self.produced > 0 and not self.is_started


class Mode(StrEnum):
    DECODE = "Decode"
    """Decodes alone: nothing to admit, or their time has come."""
    PREFILL = "Prefill"
    """Prompts, with the decodes that cannot wait."""
    MIXED = "Mixed"
    """Prompts and all decodes."""


class Chunk(NamedTuple):
    """Prompt work of a step: at most so many tokens of this request."""

    task: Task
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a step is decided from. Sequences are the driver's own lists: read, never changed."""

    now_s: float
    decodes: Sequence[Task]
    started: Sequence[Task]
    """Admitted, prompt not finished."""
    waiting: Backlog[Task]
    free_tokens: int
    """KV that nobody has been given; what started prompts still need is not taken off."""
    total_tokens: int
    seats: int
    """How many more requests may start."""
    budget_tokens: int
    """Most tokens of a step."""
    step_s: StepTime | None
    """None: step times are not known yet."""
    cached: Callable[[Task], int] | None = None
    """Tokens of a waiting prompt that the prefix cache holds; None: there is none."""

    @property
    def kv_usage(self) -> float:
        return 1.0 - self.free_tokens / self.total_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What one step does. Running requests that it does not name get nothing."""

    mode: Mode
    serve: Sequence[Task]
    """Decodes that run now, most urgent first."""
    later: Sequence[Task] = ()
    """Decodes that take what budget is left when all else has its tokens."""
    waits: Sequence[Task] = ()
    """Decodes that get nothing in this step."""
    chunks: Sequence[Chunk] = ()
    """Prompts, best first. Those not started are admitted if their blocks are free."""
    is_open: bool = False
    """After `chunks`, the queue is admitted in its own order while budget is left."""
    budget_tokens: int
    predicted_s: float | None = None
    slack_s: float = math.inf
    """From now until the first decode that is left out must be served; infinite without any."""


class Policy(Protocol):
    """One per engine: it may learn. `late_last`, `guard_s`: see `Backlog`."""

    @property
    def name(self) -> str: ...

    @property
    def late_last(self) -> bool: ...

    @property
    def guard_s(self) -> float | None: ...

    @property
    def plans_width(self) -> bool:
        """It chooses the tokens of a step itself, by step times; others are given a budget."""
        ...

    def queue_key(self, task: Task) -> tuple[float, ...]:
        """Order of waiting requests, smallest first. Must not depend on what changes while it waits."""
        ...

    def queue_group(self, task: Task) -> str:
        """Requests of different groups are ordered by the policy itself, step by step."""
        ...

    def plan(self, view: View) -> StepPlan: ...

    def wants_pure_decode(self, last_step_s: float, tightest_tbt_s: float | None) -> bool:
        """Whether steps without any prompt are to be planned as well; if not, every decode runs."""
        ...

    def joined(self, task: Task) -> None:
        """It has come to this engine and waits; not called again when it is pre-empted."""
        ...

    def admitted(self, task: Task) -> None:
        """Its first step is scheduled; not called again when it comes back from a pre-emption."""
        ...

    def served(self, tasks: Sequence[Task], *, now_s: float, kv_usage: float) -> None:
        """A token of each of these left the engine at `now_s`; they are up to date. After `stepped`."""
        ...

    def stepped(self, work: Work, seconds: float, believed_s: float | None) -> None:
        """A step has ended; `believed_s` is what the driver's step model says of it."""
        ...

    def left(self, task: Task, *, is_complete: bool) -> None:
        """It is gone: with its whole answer, or aborted."""
        ...


class Plain:
    """A policy that learns nothing, never plans pure decode steps and keeps one queue: to build others on."""

    late_last = False
    guard_s: float | None = None
    plans_width = False

    def queue_group(self, task: Task) -> str:
        return ""

    def wants_pure_decode(self, last_step_s: float, tightest_tbt_s: float | None) -> bool:
        return False

    def joined(self, task: Task) -> None:
        """Nothing to learn from it."""

    def admitted(self, task: Task) -> None:
        """Nothing to learn from it."""

    def served(self, tasks: Sequence[Task], *, now_s: float, kv_usage: float) -> None:
        """Nothing to learn from it."""

    def stepped(self, work: Work, seconds: float, believed_s: float | None) -> None:
        """Nothing to learn from it."""

    def left(self, task: Task, *, is_complete: bool) -> None:
        """Nothing to learn from it."""


def backlog_of(policy: Policy) -> Backlog[Task]:
    """The queue in the order of a policy: whoever was pre-empted in mid-answer first, then by priority."""

    def lead(task: Task) -> tuple[float, ...]:
        return (not task.was_running, task.priority)

    return Backlog(
        policy.queue_key, lead=lead, group=policy.queue_group, late_last=policy.late_last, guard_s=policy.guard_s
    )


# What several policies share


def packed(prompts: Iterable[Task], tokens: int) -> list[Chunk]:
    """Prompts one after the other until the tokens are given out."""
    chunks: list[Chunk] = []
    for task in prompts:
        if tokens <= 0:
            break
        n = min(task.remaining, tokens)
        chunks.append(Chunk(task, n))
        tokens -= n
    return chunks


def fitting(view: View, candidates: Iterable[Task], tokens: int) -> list[Task]:
    """The first that find a seat and whole blocks, until `tokens` are spoken for; the first that does not fit ends it:
    nobody takes the memory that it waits for."""
    free = view.free_tokens - sum(task.remaining for task in view.started)
    found: list[Task] = []
    for task in candidates:
        if len(found) >= view.seats or tokens <= 0 or task.known > free:
            break
        found.append(task)
        free, tokens = free - task.known, tokens - task.remaining
    return found


def by_arrival(task: Task) -> tuple[float, int]:
    return (task.arrival_s, task.serial)
