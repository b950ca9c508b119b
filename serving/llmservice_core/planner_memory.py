"""What a planner remembers between two plans: frozen, small, and text that fits an annotation. Nothing else is state.

A fresh operator starts with `None`; one that restarts reads the text back. Unreadable text is the same as none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from llmservice_core.capacity import Learned
from llmservice_core.model import Pool
from llmservice_core.planner_forecast import Errors, Past

FORMAT: Final = 1
Wants = tuple[tuple[float, int], ...]
Spent = Mapping[str, tuple[float, float]]
"""Of each promise: (late, all) requests, forgetting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """`started_s` is when this service's history began: before one full window nothing is scaled down."""

    started_s: float
    updated_s: float
    margins: Mapping[Pool, float] = field(default_factory=dict)
    """Extra share of sqrt(work) that measured misses have asked for."""
    spent: Mapping[Pool, Spent] = field(default_factory=dict)
    """How much of the error budgets of the last hour or so is used up."""
    wants: Mapping[Pool, Wants] = field(default_factory=dict)
    """(time, replicas) of recent plans, falling in size: all that a maximum over a sliding window needs."""
    learned: Mapping[Pool, Learned] = field(default_factory=dict)
    unsettled_s: Mapping[Pool, float] = field(default_factory=dict)
    """When a pool last had pods on their way or replicas for a backlog: misses of that time say nothing about the
    margin."""
    past: Mapping[Pool, Past] = field(default_factory=dict)
    """Work of the last minutes: what the trend and the errors of forecasts are seen from."""
    errors: Mapping[Pool, Errors] = field(default_factory=dict)
    start_up_s: float | None = None
    """As observed last: a service that sleeps has no pods to see it from."""

    def without_capacity(self) -> "Memory":
        """For another model, image or GPU: the coefficients, the margins and the work in replicas no longer hold."""
        return replace(self, margins={}, spent={}, learned={}, past={})

    def until(self, now_s: float) -> "Memory":
        """As of now where its times are still to come: the clock was ahead when they were written. Its history begins
        anew, and what it wanted then is in no window of now."""
        if self.updated_s <= now_s:
            return self
        early = {p: min(t, now_s) for p, t in self.unsettled_s.items()}
        return replace(self, started_s=min(self.started_s, now_s), updated_s=now_s, unsettled_s=early)

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "started": _short(self.started_s),
                "updated": _short(self.updated_s),
                "margins": {p: _short(m) for p, m in self.margins.items()},
                "spent": {p: {c: [_short(n) for n in row] for c, row in of.items()} for p, of in self.spent.items()},
                "wants": {p: [[_short(t), n] for t, n in w] for p, w in self.wants.items()},
                "learned": {p: _learned_to(known) for p, known in self.learned.items()},
                "unsettled": {p: _short(t) for p, t in self.unsettled_s.items()},
                "past": {p: [[_short(t), _short(u)] for t, u in rows] for p, rows in self.past.items()},
                "errors": {p: [_short(e.squares), _short(e.count)] for p, e in self.errors.items()},
                "start_up": _short(self.start_up_s),
            },
            separators=(",", ":"),
            sort_keys=True,
        )

    def rounded(self) -> "Memory":
        """As its text gives it back: a planner that reads the text decides as one that lives, to the last digit."""
        return Memory.from_json(self.to_json()) or self

    @staticmethod
    def from_json(text: str) -> "Memory | None":
        try:
            return _from(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def remember(wants: Wants, now_s: float, replicas: int, window_s: float) -> Wants:
    """Adds one want; drops those that left the window and those that a later, larger one hides."""
    kept = tuple((t, n) for t, n in wants if t > now_s - window_s and t < now_s and n > replicas)
    return (*kept, (now_s, replicas))


def _from(data: Any) -> Memory | None:
    if data["format"] != FORMAT:
        return None
    return Memory(
        started_s=float(data["started"]),
        updated_s=float(data["updated"]),
        margins={Pool(p): float(m) for p, m in data["margins"].items()},
        spent={Pool(p): _spent_from(of) for p, of in data.get("spent", {}).items()},
        wants={Pool(p): tuple((float(t), int(n)) for t, n in w) for p, w in data["wants"].items()},
        learned={Pool(p): _learned_from(known) for p, known in data["learned"].items()},
        unsettled_s={Pool(p): float(t) for p, t in data["unsettled"].items()},
        past={Pool(p): tuple((float(t), float(u)) for t, u in rows) for p, rows in data.get("past", {}).items()},
        errors={Pool(p): Errors(squares=float(s), count=float(n)) for p, (s, n) in data.get("errors", {}).items()},
        start_up_s=None if (seconds := data.get("start_up")) is None else float(seconds),
    )


def _spent_from(data: Any) -> Spent:
    return {str(promise): (float(late), float(asked)) for promise, (late, asked) in data.items()}


def _learned_to(known: Learned) -> list[Any]:
    return [[_short(t) for t in known.theta], _short(known.attention_per_token), _short(known.context_tokens)]


def _learned_from(data: Any) -> Learned:
    theta, attention, context = data
    return Learned(
        theta=tuple(float(t) for t in theta),
        attention_per_token=None if attention is None else float(attention),
        context_tokens=None if context is None else float(context),
    )


def _short(value: float | None) -> float | None:
    """Times to the millisecond, the rest to six figures: enough to plan the same, short enough to annotate."""
    if value is None:
        return None
    return round(value, 3) if abs(value) >= 1e6 else float(f"{value:.6g}")
