"""slai-plus for one engine: what the core must see of its requests, and step times to believe. No vLLM import.

Requests are vLLM's, read by attribute. A step model comes from the pace where there is one, else it is learned from
this engine's own step sums with the code that the operator learns capacity with; until enough steps were seen there is
none, and the engine keeps to SLAI's order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmservice_core import least_squares
from llmservice_core.bulk import Bulk, Pace, Running, StepPlan, StepTime, View, Waiting
from llmservice_core.capacity import INDEPENDENT_STEPS, STEP_NOISE
from llmservice_core.latency import Work
from llmservice_core.metric_names import FEATURES
from llmservice_core.step_sums import PAIRS, KindSums, features
from llmservice_serving.engine_numbers import EngineNumbers
from llmservice_serving.engine_seats import Seat

ENOUGH_STEPS = 200
RELEARN_EVERY = 500
GUARD_S = 60.0
"""A prompt that has waited this long goes before all longer than `SHORT_TOKENS`: a promise, not a gain."""
SHORT_TOKENS = 2500


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the engine has for a step, and when it is."""

    now_s: float
    batch_s: float
    free_tokens: int
    total_tokens: int
    seats: int
    budget_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """A plan in vLLM's terms: order of running requests, those hidden from its loop, the waiting ones that it may
    admit, the hidden ones that get tokens all the same, and the budget that its own loops may spend."""

    running: list[Any]
    hidden: list[Any]
    offered: list[Any]
    later: list[tuple[Any, int]]
    budget: int


class Planner:
    """Plans of one engine. `scale`: real tokens for each token of a paced small model."""

    def __init__(self, numbers: EngineNumbers, paced: StepTime | None, scale: int) -> None:
        whole = Bulk()
        self.bulk = Bulk(
            narrowest=max(1, whole.narrowest // scale),
            widest=max(1, whole.widest // scale),
            tile=max(1, whole.tile // scale),
            long_tokens=max(1, whole.long_tokens // scale),
        )
        self.short_tokens = SHORT_TOKENS // scale
        self.pace = Pace()
        self._numbers, self._paced = numbers, paced
        self._learned: StepTime | None = None
        self._learned_at = 0

    @property
    def believed(self) -> StepTime | None:
        """Step times without the learned ratio; None: not known yet."""
        if self._paced is not None:
            return self._paced
        steps = sum(k.steps for k in self._numbers.kinds.values())
        if steps >= ENOUGH_STEPS and (self._learned is None or steps >= self._learned_at + RELEARN_EVERY):
            self._learned, self._learned_at = learned_step_time(self._numbers), steps
        return self._learned

    def saw(self, work: Work, seconds: float) -> None:
        """A step has ended."""
        believed = self.believed
        if believed is not None and work.tokens:
            self.pace = self.pace.learn(believed(work), seconds)

    def arrange(
        self, running: Sequence[Any], queue: Sequence[Any], oldest: Any | None, seat: Callable[[Any], Seat], room: Room
    ) -> Arrangement | None:
        """The next step; None: no step times to plan with yet. `queue`: the first that wait, in their order."""
        believed = self.believed
        if believed is None:
            return None
        prompts = list(queue) if oldest is None or oldest in queue else [*queue, oldest]
        plan = self.bulk.plan(self._view(running, prompts, oldest, seat, room, believed))
        return _arranged(plan, running, prompts)

    def _view(
        self,
        running: Sequence[Any],
        prompts: Sequence[Any],
        oldest: Any | None,
        seat: Callable[[Any], Seat],
        room: Room,
        believed: StepTime,
    ) -> View:
        """Places of running requests are their indices; those of waiting ones count on from there."""
        decodes, started = self._running(running, seat, room)
        waiting = [prompt_of(r, seat(r), len(running) + i, is_started=False) for i, r in enumerate(prompts)]
        overdue = None
        if oldest is not None and time.time() - seat(oldest).arrival_s > GUARD_S:
            found = waiting[prompts.index(oldest)]
            overdue = found if found.tokens > self.short_tokens else None
        ratio = self.pace.ratio
        return View(
            now_s=room.now_s,
            decodes=decodes,
            started=started,
            waiting=waiting,
            overdue=overdue,
            short_tokens=self.short_tokens,
            free_tokens=max(0, room.free_tokens - sum(p.remaining for p in started)),
            total_tokens=room.total_tokens,
            seats=room.seats,
            budget_tokens=room.budget_tokens,
            step_s=lambda w: ratio * believed(w),
        )

    def _running(
        self, running: Sequence[Any], seat: Callable[[Any], Seat], room: Room
    ) -> tuple[list[Running], list[Waiting]]:
        decodes, started = [], []
        for place, r in enumerate(running):
            s = seat(r)
            if r.is_prefill_chunk:
                started.append(prompt_of(r, s, place, is_started=True))
                continue
            last_s = room.now_s if s.last_token_s is None else s.last_token_s
            # Async scheduling: a token is under way that is one batch younger than the last one seen.
            last_s += room.batch_s if r.num_output_placeholders else 0.0
            decodes.append(Running(last_s, s.targets.tbt_s, r.num_tokens, place))
        return decodes, started


def _arranged(plan: StepPlan, running: Sequence[Any], prompts: Sequence[Any]) -> Arrangement:
    """Decodes of the plan in front, then those that wait, then started prompts in the order in which they began: the
    tail is vLLM's victim. Started prompts are hidden as well, because vLLM would give them all the budget there is."""
    chosen = set(plan.decodes)
    serve, started = [running[i] for i in plan.decodes], [r for r in running if r.is_prefill_chunk]
    rest = [r for i, r in enumerate(running) if i not in chosen and not r.is_prefill_chunk]
    new = [(prompts[p.place - len(running)], n) for p, n in plan.chunks if not p.is_started]
    return Arrangement(
        running=[*serve, *rest, *started],
        hidden=[*rest, *started],
        offered=[r for r, _ in new],
        later=[(running[p.place], n) for p, n in plan.chunks if p.is_started] + [(r, 0) for r in rest],
        budget=max(1, len(serve) + sum(n for _, n in new)),
    )


def prompt_of(r: Any, s: Seat, place: int, *, is_started: bool) -> Waiting:
    """As the core sees it. A request with tokens already has a client that watches its stream: before all others."""
    tbt_s = 0.0 if r.num_output_tokens else s.targets.tbt_s
    return Waiting(r.num_tokens, r.num_computed_tokens if is_started else 0, s.arrival_s, tbt_s, place, is_started)


def learned_step_time(numbers: EngineNumbers) -> StepTime | None:
    """The engine's own steps as a linear model in metric_names.FEATURES; None if the sums say nothing yet."""
    with numbers.lock:
        seen = [_sums(k) for k in numbers.kinds.values() if k.steps]
    if not seen or sum(s.total_y for s in seen) <= 0:
        return None
    tile = numbers.limits.tile_tokens
    fit = least_squares.fit(least_squares.add(seen), noise=STEP_NOISE, trust=1.0, most=INDEPENDENT_STEPS)
    return lambda w: fit.predict(features(w, tile))


def _sums(k: KindSums) -> least_squares.Sums:
    xx = dict(zip(PAIRS, k.xx, strict=True))
    return least_squares.from_triangle(k.steps, k.seconds, xx, dict(enumerate(k.xy)), len(FEATURES))
