"""What the engine counts: plain sums behind one lock, written by the step loop, read by the exporter's thread.

Sums only, so that a step costs microseconds; nothing here knows Prometheus or vLLM. Widths (tile, bin) are in tokens
of the model that runs: a paced tiny model passes them divided by its scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from llmservice_core.latency import Work
from llmservice_core.metric_names import KINDS
from llmservice_core.step_sums import KindSums, features, kind_of
from llmservice_serving.engine_misses import Gaps

MEAN_GAIN = 0.01
MAX_SERIES = 64
"""Class and target come from requests: a client must not be able to create series without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What this engine can hold; constant while it runs."""

    kv_tokens: int
    max_batched_tokens: int
    max_seqs: int
    tile_tokens: int = 128
    bin_tokens: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Read off the scheduler at scrape time."""

    waiting: int
    prefills: int
    decodes: int
    hidden: int
    unpulled_blocks: int
    kv_usage: float
    theta: float | None = None
    """Offset in force, of a policy that has one."""


class EngineNumbers:
    """All counters of one engine. Methods are called by the step loop only; `lock` is for readers."""

    def __init__(self, limits: Limits, live: Callable[[], Live]) -> None:
        self.limits = limits
        self.live = live
        self.lock = Lock()
        self.kinds: dict[str, KindSums] = {k: KindSums() for k in KINDS}
        self.bins: dict[int, list[float]] = {}
        self.gaps: dict[tuple[str, float], Gaps] = {}
        self.steps = 0
        self.bad_xargs = 0
        self.hidden_decodes = 0
        self.mean_step_s = 0.0
        self.paced_steps = 0
        self.pace_overruns = 0
        self.pace_late_s = 0.0

    def step(self, w: Work, seconds: float) -> None:
        """Add one step that had tokens."""
        x = features(w, self.limits.tile_tokens)
        width = self.limits.bin_tokens
        first = int((w.tokens - 1) // width) * width + 1
        with self.lock:
            self.steps += 1
            self.mean_step_s += max(MEAN_GAIN, 1 / self.steps) * (seconds - self.mean_step_s)
            self.kinds[kind_of(w)].add(x, seconds)
            cell = self.bins.setdefault(first, [0.0, 0.0])
            cell[0] += 1
            cell[1] += seconds

    def gaps_of(self, class_name: str, target_s: float) -> Gaps:
        """The counters of a class and target, at 0 when new. The pair that was asked for longest ago makes room."""
        key = (class_name, target_s)
        with self.lock:
            if key not in self.gaps and len(self.gaps) >= MAX_SERIES:
                del self.gaps[next(iter(self.gaps))]
            gaps = self.gaps.pop(key, None) or Gaps(target_s=target_s)
            self.gaps[key] = gaps  # the newest is the last
            return gaps

    def paced(self, *, overran: bool, late_s: float) -> None:
        with self.lock:
            self.paced_steps += 1
            self.pace_overruns += overran
            self.pace_late_s += late_s
