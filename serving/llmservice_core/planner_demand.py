"""How much work arrives: requests and tokens per second over all classes, from what was counted. Pure.

Zero traffic that was counted is a known zero. A rate or a length that was not seen makes the demand unknown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmservice_core.model import ClassTraffic, Goal, Observation, Pool, ServiceClass

JUMP_SIGMAS = 2.5
"""The short window replaces the long one when it lies this many Poisson standard deviations above it."""
SPREAD = 2.0
MAX_ERROR = 0.5
"""Squared relative error of n requests' work is (1 + cv^2) / n; lengths of LLM requests have cv about 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDemand:
    """Of one class that asks for something."""

    name: str
    arrivals_rps: float
    prompt_tokens_rps: float
    output_tokens_rps: float

    def share(self, pool: Pool, whole: "Demand") -> float:
        """Of the tokens that this pool has to serve."""
        own = self._tokens(pool, self.prompt_tokens_rps, self.output_tokens_rps)
        total = self._tokens(pool, whole.prompt_tokens_rps, whole.output_tokens_rps)
        return own / total if total > 0.0 else 0.0

    @staticmethod
    def _tokens(pool: Pool, prompt: float, output: float) -> float:
        """In a mixed pool a request counts by all its tokens."""
        return {Pool.PREFILL: prompt, Pool.DECODE: output, Pool.MIXED: prompt + output}[pool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """lambda, lambda E[v_p], lambda E[v_d]; weights are class weights averaged over the tokens of each phase."""

    arrivals_rps: float = 0.0
    standard_error: float = 0.0
    """Of the work, as a share of it: the requests of the window are a sample, and so are their lengths."""
    prompt_tokens_rps: float = 0.0
    output_tokens_rps: float = 0.0
    strict_share: float = 1.0
    """Share of the prompt tokens that belongs to the class with the strictest TTFT; 1 when nothing is known."""
    prefill_weight: float = 1.0
    decode_weight: float = 1.0
    classes: tuple[ClassDemand, ...] = ()
    unknown: str | None = None
    """Why the token rates are unknown; None: they are known, zero included."""
    is_warming_up: bool = False
    """Requests arrive, but none has ended yet: only their lengths are missing."""

    @property
    def prompt_tokens(self) -> float | None:
        return self.prompt_tokens_rps / self.arrivals_rps if self.arrivals_rps > 0 and not self.unknown else None

    @property
    def output_tokens(self) -> float | None:
        return self.output_tokens_rps / self.arrivals_rps if self.arrivals_rps > 0 and not self.unknown else None


def demand(goal: Goal, seen: Observation) -> Demand:
    """Demand of all classes of the goal; a class without lengths of its own borrows the mean of the others."""
    by_name = {c.name: c for c in seen.classes}
    rates = {c.name: _rate(by_name.get(c.name), seen.recent_window_s) for c in goal.classes}
    blind = [name for name, rate in rates.items() if rate is None]
    if blind:
        return Demand(unknown=f"no arrivals are counted for class {', '.join(blind)}")
    known = {name: rate for name, rate in rates.items() if rate is not None}
    return _with_lengths(goal, by_name, known, seen.window_s)


def strictest_ttft(goal: Goal) -> ServiceClass:
    return min(goal.classes, key=lambda c: c.ttft.target_s)


def strictest_tbt_s(goal: Goal) -> float:
    return min(c.tbt.target_s for c in goal.classes)


def _with_lengths(goal: Goal, by_name: dict[str, ClassTraffic], rates: dict[str, float], window_s: float) -> Demand:
    total_rps = sum(rates.values())
    if total_rps <= 0.0:
        return Demand()
    active = [c for c in goal.classes if rates[c.name] > 0.0]
    prompts = _lengths([(rates[c.name], by_name[c.name].prompt_tokens) for c in active])
    outputs = _lengths([(rates[c.name], by_name[c.name].output_tokens) for c in active])
    if prompts is None or outputs is None:
        what = "prompt" if prompts is None else "answer"
        why = f"{total_rps:.2f} requests/s arrive but no {what} has ended yet"
        return Demand(arrivals_rps=total_rps, unknown=why, is_warming_up=True)
    prompt_rps = [rates[c.name] * v for c, v in zip(active, prompts, strict=True)]
    output_rps = [rates[c.name] * v for c, v in zip(active, outputs, strict=True)]
    strict = strictest_ttft(goal).name
    strict_rps = sum(t for c, t in zip(active, prompt_rps, strict=True) if c.name == strict)
    return Demand(
        arrivals_rps=total_rps,
        standard_error=min(MAX_ERROR, math.sqrt(SPREAD / (total_rps * window_s))) if window_s > 0 else MAX_ERROR,
        prompt_tokens_rps=sum(prompt_rps),
        output_tokens_rps=sum(output_rps),
        strict_share=strict_rps / sum(prompt_rps) if sum(prompt_rps) > 0 else 1.0,
        prefill_weight=_weight(active, prompt_rps),
        decode_weight=_weight(active, output_rps),
        classes=tuple(
            ClassDemand(name=c.name, arrivals_rps=rates[c.name], prompt_tokens_rps=p, output_tokens_rps=d)
            for c, p, d in zip(active, prompt_rps, output_rps, strict=True)
        ),
    )


def _rate(traffic: ClassTraffic | None, recent_window_s: float | None) -> float | None:
    """Arrivals per second: the longer window, or the short one where a jump is beyond chance."""
    if traffic is None or traffic.arrivals_rps is None:
        return None
    rate, recent = traffic.arrivals_rps, traffic.recent_rps
    if recent is None or not recent_window_s:
        return rate
    beyond_chance = rate + JUMP_SIGMAS * math.sqrt(rate / recent_window_s)
    return recent if recent > beyond_chance else rate


def _lengths(rows: Sequence[tuple[float, float | None]]) -> list[float] | None:
    """Mean tokens per request of each class; a class that has none yet takes the rate-weighted mean of the others."""
    known = [(rate, v) for rate, v in rows if v is not None]
    if not known:
        return None
    mean = sum(rate * v for rate, v in known) / sum(rate for rate, _ in known)
    return [mean if v is None else v for _, v in rows]


def _weight(classes: Sequence[ServiceClass], tokens_rps: Sequence[float]) -> float:
    total = sum(tokens_rps)
    return sum(c.weight * t for c, t in zip(classes, tokens_rps, strict=True)) / total if total > 0 else 1.0
