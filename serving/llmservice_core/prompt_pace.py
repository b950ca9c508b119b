"""How fast prompts come back from one engine, and how late a first token will be. Pure: time is an argument.

Learned while an engine has prompts of ours: the time between two that end, against the tokens of the one that ended,
as seconds = per prompt + per token. Waiting inside the engine is not counted twice, because it is the time *between*
ends. What has not been seen for `FRESH_S` is unknown: whoever is refused because of it would otherwise be refused for
ever, for nobody would see that things are better.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise

from llmservice_core.line import Amount

FRESH_S = 15.0
FEWEST = 3.0
"""Ends seen (weighted by how old they are) before anything is said."""
KEEP = 0.95
MOST_SURPRISE = 4.0
"""A time many times longer than all that the engine holds should take (a stop of the machine) counts as so many."""
LEAST_SPREAD = 0.02
"""Variance of the lengths over their squared mean below which the two coefficients cannot be told apart."""


@dataclass(slots=True, kw_only=True)
class PromptPace:
    """Of one engine, as one router sees it."""

    held: Amount = field(default_factory=Amount)
    """Prompts of ours that it has and has not finished."""
    seen_s: float | None = None
    _since_s: float = 0.0
    _weight: float = 0.0
    _tokens: float = 0.0
    _squares: float = 0.0
    _seconds: float = 0.0
    _products: float = 0.0

    def began(self, tokens: float, now_s: float) -> None:
        if self.held.prompts < 1:
            self._since_s = now_s
        self.held += Amount(1, tokens)

    def ended(self, tokens: float, now_s: float) -> None:
        """A prompt was computed."""
        self._learn(tokens, max(0.0, now_s - self._since_s))
        self.gone(tokens)
        self._since_s = self.seen_s = now_s

    def gone(self, tokens: float) -> None:
        """It failed, or its client left: it takes no more time, and what it took says nothing."""
        left = self.held.prompts - 1
        self.held = Amount(left, self.held.tokens - tokens) if left > 0 else Amount()

    def is_known(self, now_s: float) -> bool:
        return self._weight >= FEWEST and self.seen_s is not None and now_s - self.seen_s <= FRESH_S

    def seconds(self, work: Amount) -> float:
        """Of this engine alone. Only where `is_known`."""
        per_prompt, per_token = self._coefficients()
        return per_prompt * work.prompts + per_token * work.tokens

    def left_s(self, now_s: float) -> float:
        """Until all that it holds is done. Only where `is_known`."""
        return max(0.0, self.seconds(self.held) - (now_s - self._since_s)) if self.held.prompts else 0.0

    def _learn(self, tokens: float, seconds: float) -> None:
        if self._weight >= FEWEST:
            seconds = min(seconds, MOST_SURPRISE * max(self.seconds(self.held), 1e-6))
        self._weight = KEEP * self._weight + 1.0
        self._tokens = KEEP * self._tokens + tokens
        self._squares = KEEP * self._squares + tokens * tokens
        self._seconds = KEEP * self._seconds + seconds
        self._products = KEEP * self._products + tokens * seconds

    def _coefficients(self) -> tuple[float, float]:
        """Least squares, neither of them negative."""
        n, s = self._tokens / self._weight, self._seconds / self._weight
        spread = self._squares / self._weight - n * n
        if n <= 0:
            return s, 0.0
        if spread < LEAST_SPREAD * n * n:
            return 0.0, s / n
        slope = (self._products / self._weight - n * s) / spread
        per_token = min(max(slope, 0.0), s / n)
        return s - per_token * n, per_token


@dataclass(slots=True, kw_only=True)
class Lag:
    """From the end of the prefill to the first token: transfer, decode queue, one decode step. A mean that forgets."""

    mean_s: float = 0.0
    seen_s: float | None = None
    gain: float = 0.2

    def saw(self, seconds: float, now_s: float) -> None:
        self.mean_s = seconds if self.seen_s is None else self.mean_s + self.gain * (seconds - self.mean_s)
        self.seen_s = now_s

    def at(self, now_s: float) -> float | None:
        """None: not seen for a while."""
        fresh = self.seen_s is not None and now_s - self.seen_s <= FRESH_S
        return self.mean_s if fresh else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Time to first token as it will be: age + queue (router's and engines') + prefill + what comes after it."""

    age_s: float
    queue_s: float
    prefill_s: float
    after_s: float

    @property
    def ttft_s(self) -> float:
        return self.age_s + self.queue_s + self.prefill_s + self.after_s

    @property
    def service_s(self) -> float:
        """What is left when its turn comes."""
        return self.prefill_s + self.after_s

    def late_by_s(self, target_s: float) -> float:
        """How much later the target would have to be; below 0 it will be met."""
        return self.ttft_s - target_s


def expect(
    paces: Collection[PromptPace], *, own: Amount, ahead: Amount, after_s: float | None, age_s: float, now_s: float
) -> Expected | None:
    """None while something of it is unknown: then nobody is refused for it.

    `paces`: of the engines that may compute the prompt. They share what waits in front of them, the one that is done
    first takes the next; one that was not seen of late is taken to be as fast as the mean of the others.
    """
    known = [p for p in paces if p.is_known(now_s)]
    if not known or after_s is None:
        return None

    def mean_s(work: Amount) -> float:
        return sum(p.seconds(work) for p in known) / len(known)

    left = [p.left_s(now_s) if p.is_known(now_s) else mean_s(p.held) for p in paces]
    return Expected(age_s=age_s, queue_s=filled(left, mean_s(ahead)), prefill_s=mean_s(own), after_s=after_s)


def filled(levels: Collection[float], more: float) -> float:
    """The level up to which `more` fills the lowest of these, as water does."""
    total = more
    for count, (level, above) in enumerate(pairwise((*sorted(levels), math.inf)), start=1):
        total += level
        if total / count <= above:
            return total / count
    return math.inf
