"""Policies that serve every decode in every step and differ in the order of prompts alone.

All share Sarathi-Serve's step (Agrawal et al., OSDI 2024, arXiv 2403.02310): decodes first, never paused, then chunks
of prompts up to a token budget.
"""

from __future__ import annotations

import math

from llmservice_core.lengths import LengthPredictor
from llmservice_core.steps import Mode, Plain, StepPlan, Task, View, by_arrival, fitting, packed


class Sarathi(Plain):
    """Stall-free batching, first come first served. A budget too small costs throughput, one too large TBT."""

    def __init__(self, name: str = "sarathi") -> None:
        self.name = name

    def queue_key(self, task: Task) -> tuple[float, ...]:
        return (task.arrival_s,)

    def plan(self, view: View) -> StepPlan:
        left = max(0, view.budget_tokens - len(view.decodes))
        chunks = packed(sorted(view.started, key=by_arrival), left)
        return StepPlan(
            mode=Mode.MIXED, serve=view.decodes, chunks=chunks, is_open=True, budget_tokens=view.budget_tokens
        )


class ShortestPrompt(Sarathi):
    """Shortest prompt first (SPF), not pre-emptive: the baseline of arXiv 2508.01002 beside first come first served."""

    def __init__(self, name: str = "spf", guard_s: float | None = 60.0) -> None:
        super().__init__(name)
        self.guard_s = guard_s

    def queue_key(self, task: Task) -> tuple[float, ...]:
        return (task.known, task.arrival_s)


class ShortestJob(Sarathi):
    """Shortest job first by prompt and predicted answer (SSJF, Qiu et al., arXiv 2404.08509), not pre-emptive.

    `output_weight`: what a token of the answer costs, in tokens of prompt. A request of which the predictor knows
    nothing counts with the mean of what it has seen, or by its prompt alone.
    """

    def __init__(
        self,
        predictor: LengthPredictor,
        name: str = "sjf",
        *,
        output_weight: float = 5.0,
        guard_s: float | None = 60.0,
    ) -> None:
        super().__init__(name)
        self.guard_s = guard_s
        self._predictor, self._output_weight = predictor, output_weight

    def queue_key(self, task: Task) -> tuple[float, ...]:
        output = self._predictor.tokens(task)
        return (task.known + self._output_weight * (output or 0.0), task.arrival_s)

    def left(self, task: Task, *, is_complete: bool) -> None:
        if is_complete:
            self._predictor.saw(task, task.produced)


class EarliestDeadline(Plain):
    """Earliest TTFT deadline first, pre-emptive between chunks. Without late_last it is EDF to the letter, which under
    overload spends its time on what is late already."""

    def __init__(self, name: str = "edf", *, late_last: bool = False, most_candidates: int = 64) -> None:
        self.name, self.late_last = name, late_last
        self._most_candidates = most_candidates

    def queue_key(self, task: Task) -> tuple[float, ...]:
        return (math.inf if task.ttft_s is None else task.arrival_s + task.ttft_s, task.arrival_s)

    def plan(self, view: View) -> StepPlan:
        left = max(0, view.budget_tokens - len(view.decodes))
        fresh = fitting(view, view.waiting.first(self._most_candidates), left)
        prompts = sorted([*view.started, *fresh], key=lambda p: self._rank(p, view.now_s))
        return StepPlan(
            mode=Mode.MIXED, serve=view.decodes, chunks=packed(prompts, left), budget_tokens=view.budget_tokens
        )

    def _rank(self, p: Task, now_s: float) -> tuple[float, ...]:
        is_late = self.late_last and p.ttft_s is not None and now_s > p.arrival_s + p.ttft_s
        return (not p.produced, p.priority, is_late, *self.queue_key(p))
