"""What an engine adds up per step, so that capacity can be learned from sums alone: least squares needs no samples.

Sums only, so that a step costs microseconds. One definition for the engine's exporter and the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from llmservice_core.latency import Work
from llmservice_core.metric_names import FEATURES, KINDS

PAIRS = tuple((i, j) for i in range(len(FEATURES)) for j in range(i, len(FEATURES)))


@dataclass(slots=True)
class KindSums:
    """Sufficient statistics of one kind of step: least squares on them gives the same fit as on the steps."""

    steps: int = 0
    seconds: float = 0.0
    xx: list[float] = field(default_factory=lambda: [0.0] * len(PAIRS))
    xy: list[float] = field(default_factory=lambda: [0.0] * len(FEATURES))

    def add(self, x: tuple[float, ...], seconds: float) -> None:
        """One step with these features."""
        self.steps += 1
        self.seconds += seconds
        for at, (i, j) in enumerate(PAIRS):
            self.xx[at] += x[i] * x[j]
        for i, xi in enumerate(x):
            self.xy[i] += xi * seconds


def kind_of(w: Work) -> str:
    """One of metric_names.KINDS."""
    prefill, decode, mixed = KINDS
    if not w.decodes:
        return prefill
    return mixed if w.new_tokens else decode


def features(w: Work, tile_tokens: int) -> tuple[float, ...]:
    """x of metric_names.FEATURES."""
    return (
        1.0,
        float(ceil(w.tokens / tile_tokens)),
        w.tokens / 1e3,
        w.attention_tokens2 / 1e6,
        w.decodes,
        w.decode_kv_tokens / 1e3,
    )
