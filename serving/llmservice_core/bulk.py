"""Policy slai-plus: decodes that have time wait together and are served in one full-width step; prompts run between.

Ours, after SLAI (arXiv 2508.01002) and RAD's optimal tiling. Where SLAI serves every decode at its own deadline, mixed
into prompt steps that it makes slower, this one lets all prompt work run first while slack lasts, in whole tiles, and
then serves all decodes in one batch, whose cost hardly grows with its width. Five parts:

1. a decode whose target leaves no room for one prompt step rides in every step (`strict`); the others are due at
   `aim` of their target after their last token, and a step begins only if it and one full decode step end before that;
2. prompts by strictness, then by remaining tokens, started and waiting alike: a started one pauses between chunks when
   a shorter one comes (shortest remaining processing time);
3. a step is as wide as the first prompt needs, in tiles, between `narrowest` and `widest`;
4. a share of the KV cache is kept from long relaxed prompts, more from longer ones: a full cache blocks no short one;
5. where a full-width mixed step costs less than the prompt and the decode step apart, they run as one.

An overdue prompt (the caller says which has waited too long) goes before all that are not short: a bound on waiting
that costs short ones nothing. Time comes from a step-time model; the caller corrects it by what steps took (`Pace`).
Pure: no clock, no queue, no blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from llmservice_core.latency import Work, work

StepTime = Callable[[Work], float]


class Running(NamedTuple):
    """A decode: when its last token left, its target (None: it never waits), its cached tokens, the caller's place."""

    last_token_s: float
    tbt_s: float | None
    kv_tokens: int
    place: int


class Waiting(NamedTuple):
    """A prompt, started (`computed` > 0) or not. `tokens` is its whole length."""

    tokens: int
    computed: int
    arrival_s: float
    tbt_s: float | None
    place: int
    is_started: bool

    @property
    def remaining(self) -> int:
        return self.tokens - self.computed

    @property
    def key(self) -> tuple[float, float, float]:
        return (math.inf if self.tbt_s is None else self.tbt_s, self.remaining, self.arrival_s)


class Mode(StrEnum):
    DECODE = "Decode"
    """All decodes, no prompt: nothing to admit, or their time has come."""
    PREFILL = "Prefill"
    """Prompts, with the strict decodes riding along."""
    MIXED = "Mixed"
    """Prompts and all decodes: cheaper than one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a step is decided from. `waiting` comes in the order of `Waiting.key`; it is read only as far as needed."""

    now_s: float
    decodes: Sequence[Running]
    started: Sequence[Waiting]
    waiting: Iterable[Waiting]
    overdue: Waiting | None
    """The prompt that has waited longest, if that is longer than the caller's guard."""
    short_tokens: int
    """Up to this length a prompt goes before an overdue one."""
    free_tokens: int
    total_tokens: int
    seats: int
    """How many more requests may start."""
    budget_tokens: int
    step_s: StepTime


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """Places of the decodes to serve, and (place, tokens, is_started) of the prompts, in order; with the numbers."""

    mode: Mode
    decodes: tuple[int, ...]
    chunks: tuple[tuple[Waiting, int], ...]
    predicted_s: float
    slack_s: float
    """From now until the first decode that is left out must have had a full decode step; infinite without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """Widths in tokens of a whole step, decodes included."""

    name: str = "slai-plus"
    aim: float = 0.85
    """Share of the TBT target after which the next token is due; the rest is for steps that last longer than that."""
    narrowest: int = 256
    widest: int = 768
    tile: int = 128
    reserve: float = 0.03
    """Share of the KV cache kept from prompts of `long_tokens` and more; shorter ones are kept from less."""
    long_tokens: int = 4000
    mix_from: float = 0.80
    """Share of the KV cache in use from which mixing is weighed: then width is bounded by memory, not by arrivals."""
    decode_margin: float = 1.1
    most_candidates: int = 64
    """So many waiting prompts are looked at for one that fits."""

    def plan(self, view: View) -> StepPlan:
        every_s = view.step_s(_decode_work(view.decodes))
        sit_out_s = view.step_s(Work(new_tokens=self.widest, chunks=1)) + self.decode_margin * every_s
        prompts = self._prompts(view, sit_out_s)
        if not prompts:
            return self._all_decodes(view, every_s)
        strict = [d for d in view.decodes if self._is_tight(d.tbt_s, sit_out_s)]
        relaxed = [d for d in view.decodes if not self._is_tight(d.tbt_s, sit_out_s)]
        due_s = min((self._due_s(d) for d in relaxed), default=math.inf)
        strict_due_s = min((self._due_s(d) for d in strict if d.tbt_s is not None), default=math.inf)
        slack_s = due_s - view.now_s - (self.decode_margin * every_s if relaxed else 0.0)
        found = self._prefill(view, prompts, strict, slack_s, strict_due_s - view.now_s)
        if found is not None:
            return self._maybe_mixed(view, prompts, found, due_s, strict_due_s, every_s)
        return self._mixed(view, prompts, strict, min(due_s, strict_due_s), every_s) or self._all_decodes(view, every_s)

    # Which prompts

    def _prompts(self, view: View, sit_out_s: float) -> list[Waiting]:
        """Started and admissible ones, best first, no more than the widest step could hold."""
        candidates: Iterable[Waiting] = islice(view.waiting, self.most_candidates)
        if view.overdue is not None:
            candidates = self._with_overdue(candidates, view.overdue, view.short_tokens)
        fresh = self._admissible(view, candidates, sit_out_s)
        return sorted([*view.started, *fresh], key=lambda p: self._rank(p, view))

    def _with_overdue(self, candidates: Iterable[Waiting], overdue: Waiting, short_tokens: int) -> Iterable[Waiting]:
        """It takes its place among them before memory is given out."""
        others = [p for p in candidates if p.place != overdue.place]
        behind = [p for p in others if p.tokens > short_tokens]
        return [*(p for p in others if p.tokens <= short_tokens), overdue, *behind]

    def _rank(self, p: Waiting, view: View) -> tuple[float, ...]:
        if view.overdue is None:
            return p.key
        is_overdue = p.place == view.overdue.place
        return (0.0 if p.tokens <= view.short_tokens else 1.0 if is_overdue else 2.0, *p.key)

    def _admissible(self, view: View, candidates: Iterable[Waiting], sit_out_s: float) -> list[Waiting]:
        """Whole prompts that fit beside what is kept for shorter ones. One that does not is passed over, unless it is
        strict: nobody takes the memory that it waits for."""
        free, tokens = view.free_tokens, 0
        # An empty engine keeps nothing for anybody: nothing would change.
        will_free = bool(view.decodes or view.started)
        reserve = self.reserve if will_free else 0.0
        found: list[Waiting] = []
        for p in candidates:
            if len(found) >= view.seats or tokens >= self.widest:
                break
            is_strict = p.tbt_s is not None and self._is_tight(p.tbt_s, sit_out_s)
            kept = 0.0 if is_strict else reserve * view.total_tokens * min(1.0, p.tokens / self.long_tokens)
            if is_strict and p.tokens > free and will_free:
                break
            if free - p.tokens >= kept:
                found.append(p)
                free, tokens = free - p.tokens, tokens + p.remaining
        return found

    # How wide

    def _due_s(self, d: Running) -> float:
        return -math.inf if d.tbt_s is None else d.last_token_s + self.aim * d.tbt_s

    def _is_tight(self, tbt_s: float | None, sit_out_s: float) -> bool:
        """The target leaves no time to sit out one of the widest prompt steps and the decode step behind it."""
        return tbt_s is None or self.aim * tbt_s < sit_out_s

    def _widths(self, view: View, wanted: int) -> range:
        most = min(self.widest, view.budget_tokens)
        least = min(self.narrowest, most)
        top = max(least, min(most, -(-wanted // self.tile) * self.tile))
        return range(top, least - 1, -self.tile)

    def _prefill(
        self, view: View, prompts: Sequence[Waiting], strict: Sequence[Running], slack_s: float, strict_s: float
    ) -> StepPlan | None:
        """The widest step that leaves the waiting decodes their time; the narrowest if only a strict token is late."""
        plan = None
        for width in self._widths(view, prompts[0].remaining + len(strict)):
            plan = self._step(view, Mode.PREFILL, prompts, strict, width, slack_s)
            if plan.predicted_s <= min(slack_s, strict_s):
                return plan
        return plan if plan is not None and plan.predicted_s <= slack_s else None

    def _maybe_mixed(
        self,
        view: View,
        prompts: Sequence[Waiting],
        plan: StepPlan,
        due_s: float,
        strict_due_s: float,
        every_s: float,
    ) -> StepPlan:
        """RAD's prices: with a full cache, take the decodes along where that costs less than tile and decode step."""
        if 1.0 - view.free_tokens / view.total_tokens < self.mix_from or len(plan.decodes) == len(view.decodes):
            return plan
        tile_s = self._step(view, Mode.PREFILL, prompts, (), self.widest, 0.0)
        tokens = sum(n for _, n in tile_s.chunks)
        if not tokens:
            return plan
        price_s, decode_s = tile_s.predicted_s / tokens, every_s / len(view.decodes)
        latest_s = min(due_s, strict_due_s) - view.now_s
        for width in reversed(range(self.narrowest, min(self.widest, view.budget_tokens) + 1, self.tile)):
            mixed = self._step(view, Mode.MIXED, prompts, view.decodes, width, plan.slack_s)
            worth_s = sum(n for _, n in mixed.chunks) * price_s + len(view.decodes) * decode_s
            if mixed.chunks and mixed.predicted_s < worth_s and mixed.predicted_s <= latest_s:
                return mixed
        return plan

    def _mixed(
        self, view: View, prompts: Sequence[Waiting], strict: Sequence[Running], due_s: float, every_s: float
    ) -> StepPlan | None:
        """All decodes are due: prompts come along if that is cheaper than two steps and late for none."""
        for width in self._widths(view, self.widest):
            if width <= len(view.decodes):
                return None
            mixed = self._step(view, Mode.MIXED, prompts, view.decodes, width, 0.0)
            apart = self._step(view, Mode.PREFILL, prompts, strict, width - len(view.decodes) + len(strict), 0.0)
            if mixed.predicted_s < apart.predicted_s + every_s and view.now_s + mixed.predicted_s <= due_s:
                return mixed
        return None

    def _step(
        self,
        view: View,
        mode: Mode,
        prompts: Sequence[Waiting],
        decodes: Sequence[Running],
        width: int,
        slack_s: float,
    ) -> StepPlan:
        left, chunks = width - len(decodes), []
        for p in prompts:
            if left <= 0:
                break
            n = min(p.remaining, left)
            chunks.append((p, n))
            left -= n
        w = work([(n, p.computed) for p, n in chunks], [d.kv_tokens for d in decodes])
        places = tuple(d.place for d in decodes)
        return StepPlan(mode=mode, decodes=places, chunks=tuple(chunks), predicted_s=view.step_s(w), slack_s=slack_s)

    def _all_decodes(self, view: View, every_s: float) -> StepPlan:
        places = tuple(d.place for d in sorted(view.decodes, key=self._due_s))
        return StepPlan(mode=Mode.DECODE, decodes=places, chunks=(), predicted_s=every_s, slack_s=math.inf)


def _decode_work(decodes: Sequence[Running]) -> Work:
    return work([], [d.kv_tokens for d in decodes])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much longer steps last than the model says, learned from each step."""

    ratio: float = 1.0
    gain: float = 0.02

    def learn(self, predicted_s: float, measured_s: float) -> Pace:
        """`predicted_s` without the ratio. A step many times slower (a stop of the machine) counts as four times."""
        seen = min(4.0, measured_s / predicted_s) if predicted_s > 0 else self.ratio
        return replace(self, ratio=self.ratio + self.gain * (seen - self.ratio))
