"""SLAI: decodes near their deadline, then started prompts, then new ones, strict and shortest first, then the rest.

Bari, Hegde, de Veciana, "Optimal Scheduling Algorithms for LLM Inference: Theory and Practice", arXiv 2508.01002,
section 6 and Eq. 8; parameters are those of the authors' flagship configuration.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol

from llmservice_core.latency import Work
from llmservice_core.steps import Mode, Plain, StepPlan, Task, View, by_arrival, packed


class Mean(Protocol):
    """What Eq. 8 calls the mean batch duration, however it is taken."""

    def add(self, seconds: float, *, has_prefill: bool) -> None: ...

    @property
    def seconds(self) -> float: ...


class BatchMean:
    """Mean batch duration of Eq. 8, and the one place where policy slai departs from the authors' code.

    They average over all batches since the start. Batches have two modes (decode only, 25 ms; with a chunk, 115 ms on
    the card of the paper's kind), and the plain mean is far too small just when decodes are about to be hidden behind
    chunks: strict gaps of 300 ms were measured against a target of 120 ms. So: the larger of the mean over all batches
    and the mean over those with prompt tokens, each over the last `memory` batches (an engine in a cluster runs for
    weeks and must follow a change of load).
    """

    __slots__ = ("_count", "_mean", "_memory")

    def __init__(self, memory: int = 512) -> None:
        self._memory = memory
        self._count = {False: 0, True: 0}
        self._mean = {False: 0.0, True: 0.0}

    def add(self, seconds: float, *, has_prefill: bool) -> None:
        self._fold(False, seconds)
        if has_prefill:
            self._fold(True, seconds)

    def _fold(self, only_prefill: bool, seconds: float) -> None:
        self._count[only_prefill] = min(self._count[only_prefill] + 1, self._memory)
        self._mean[only_prefill] += (seconds - self._mean[only_prefill]) / self._count[only_prefill]

    @property
    def seconds(self) -> float:
        return max(self._mean.values())


class RunningMean:
    """Eq. 8's mean to the letter: over all batches since the start. Policy slai-published has it."""

    __slots__ = ("_count", "seconds")

    def __init__(self) -> None:
        self._count, self.seconds = 0, 0.0

    def add(self, seconds: float, *, has_prefill: bool) -> None:
        self._count += 1
        self.seconds += (seconds - self.seconds) / self._count


class Slai(Plain):
    """SLAI as published: dynamic offset Theta; shortest prompt first (or first come first served), strict users first.

    Departures, each forced by a setting that the paper does not have:
    - more than two classes: "strict first" becomes "smaller TBT target first", the same order when there are two;
    - a request without a target is never delayed (its latest start is minus infinity) and is admitted last;
    - a decode that was pre-empted is admitted before all others: under shortest-first it would wait behind every new
      short prompt while its client watches a frozen stream. A prompt that was evicted goes back into the order;
    - blocks are the engine's: vLLM checks at admission that the whole prompt fits, but takes blocks chunk by chunk; the
      authors take all at once and keep 1 % free. So a started prompt can run dry midway;
    - victims are the engine's: the newest started prompt as published; when there is none, the decode with the latest
      LST (the authors: the critical decode that found no block). Nobody is evicted for a decode that can wait;
    - Eq. 8's mean batch duration comes from `mean`, see `BatchMean`;
    - the authors' limit of decodes per batch is the engine's own limit of requests at once.
    """

    def __init__(
        self,
        name: str = "slai",
        *,
        offset: float = 5.0,
        offset_when_full: float = 10.0,
        full_from: float = 0.96,
        shortest_first: bool = True,
        strict_first: bool = True,
        mean: Callable[[], Mean] = BatchMean,
    ) -> None:
        """`offset` is Theta in batches while less than `full_from` of the KV blocks are in use."""
        self.name = name
        self.offset, self.offset_when_full, self.full_from = offset, offset_when_full, full_from
        self._shortest_first, self._strict_first = shortest_first, strict_first
        self.batch_mean = mean()

    def queue_key(self, task: Task) -> tuple[float, ...]:
        strictness = (math.inf if task.tbt_s is None else task.tbt_s) if self._strict_first else 0.0
        return (strictness, task.known if self._shortest_first else 0.0, task.arrival_s)

    def theta(self, kv_usage: float) -> float:
        """The offset in force."""
        return self.offset_when_full if kv_usage >= self.full_from else self.offset

    def served(self, tasks: Sequence[Task], *, now_s: float, kv_usage: float) -> None:
        """Eq. 8: end of the batch that served it + TBT - Theta x mean batch duration."""
        base_s = now_s - self.theta(kv_usage) * self.batch_mean.seconds
        for task in tasks:
            if task.tbt_s is not None:
                task.latest_start_s = base_s + task.tbt_s

    def stepped(self, work: Work, seconds: float, believed_s: float | None) -> None:
        self.batch_mean.add(seconds, has_prefill=work.chunks > 0)

    def plan(self, view: View) -> StepPlan:
        """Critical decodes by LST, started prompts first come first served, the queue, the other decodes by LST."""
        order = sorted(view.decodes, key=_by_latest_start)
        due = bisect_right(order, view.now_s, key=_latest_start)
        chunks = packed(sorted(view.started, key=by_arrival), max(0, view.budget_tokens - due))
        return StepPlan(
            mode=Mode.MIXED if due == len(order) else Mode.PREFILL,
            serve=order[:due],
            later=order[due:],
            chunks=chunks,
            is_open=True,
            budget_tokens=view.budget_tokens,
            slack_s=_latest_start(order[due]) - view.now_s if due < len(order) else math.inf,
        )


def _latest_start(task: Task) -> float:
    return task.latest_start_s + task.pending_s


def _by_latest_start(task: Task) -> tuple[float, float]:
    return (task.latest_start_s + task.pending_s, task.arrival_s)
