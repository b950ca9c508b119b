"""Token gaps of a class: how many were in time, how much time was left, and what made those late that were. No vLLM."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

CAUSES = ("preemption", "prefill", "held_back", "kv_pressure", "overload")
"""Why a gap was longer than its target, the first that applies: its request was pre-empted; the step that brought the
token was longer than the target and had prompts in it; the policy let it sit out steps; the KV cache was full; there
was simply more to do than steps could hold."""
FULL = 0.96
SLACK_BOUNDS = (-1.0, -0.5, -0.2, -0.1, 0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Slack of a token as a share of its target: 1 - gap / target. Below 0 it was late."""
GAIN = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """The step that brought a token. Seconds on the engine's clock; `kv_usage` is a share."""

    ended_s: float
    seconds: float
    has_prompts: bool
    kv_usage: float


@dataclass(slots=True, kw_only=True)
class Gaps:
    """Token gaps of one class against one target. Counted without a lock, once per token: `events` moves first, so a
    reader takes `good` first and never sees more good ones than there were."""

    target_s: float = math.inf
    events: int = 0
    good: int = 0
    slack: list[int] = field(default_factory=lambda: [0] * (len(SLACK_BOUNDS) + 1))
    """By SLACK_BOUNDS; the last cell holds what cannot be."""
    mean_slack_s: float | None = None
    """Of late tokens as of others, moving."""
    misses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))

    def in_time(self, tokens: int) -> None:
        self.events += tokens
        self.good += tokens

    def count(self, gap_s: float, requests: int) -> bool:
        """So many requests had this gap; whether it was too long."""
        slack_s, is_late = self.target_s - gap_s, gap_s > self.target_s
        self.events += requests
        self.good += 0 if is_late else requests
        self.slack[bisect_left(SLACK_BOUNDS, slack_s / self.target_s)] += requests
        known_s = self.mean_slack_s
        self.mean_slack_s = slack_s if known_s is None else known_s + min(1.0, GAIN * requests) * (slack_s - known_s)
        return is_late


def cause(*, was_preempted: bool, sat_out: int, target_s: float, step: StepFacts) -> str:
    """One of CAUSES."""
    if was_preempted:
        return "preemption"
    if step.has_prompts and step.seconds > target_s:
        return "prefill"
    if sat_out:
        return "held_back"
    return "kv_pressure" if step.kv_usage >= FULL else "overload"
