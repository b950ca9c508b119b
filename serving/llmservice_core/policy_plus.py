"""Policy slai-plus: decodes that have time wait together and are served in one full-width step; prompts run between.

Ours, after SLAI (arXiv 2508.01002) and RAD's optimal tiling. Where SLAI serves every decode at its own deadline, mixed
into prompt steps that it makes slower, this one lets all prompt work run first while slack lasts, in whole tiles, and
then serves all decodes in one batch, whose cost hardly grows with its width. Six parts:

1. a decode whose target leaves no room for one prompt step rides in every step (`strict`); the others are due at
   `aim` of their target after their last token, and a step begins only if it and one full decode step end before that;
2. prompts by strictness, then by remaining tokens, started and waiting alike: a started one pauses between chunks when
   a shorter one comes (shortest remaining processing time);
3. a step is as wide as the first prompt needs, in tiles, between `narrowest` and `widest`;
4. a share of the KV cache is kept from long relaxed prompts, more from longer ones: a full cache blocks no short one;
5. where a full-width mixed step costs less than the prompt and the decode step apart, they run as one;
6. without prompts every decode runs, unless a step of all is too slow for the strictest of them: then the relaxed take
   turns (a decode pool whose width is bounded by memory, not by its strictest user).

A prompt past its TTFT target stands behind those that can still meet theirs. One that first-come order would have
started `guard_s` ago goes before all others: a bound on waiting. Time comes from a step-time model, corrected by what
steps took (`Pace`). Until there is one, SLAI's order holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmservice_core.backlog import LATE, ON_TIME, OVERDUE
from llmservice_core.bulk import Bulk, Pace
from llmservice_core.latency import Work
from llmservice_core.policy_slai import Slai
from llmservice_core.policy_turns import take_turns
from llmservice_core.steps import Chunk, Mode, Plain, StepPlan, StepTime, Task, View, packed


@dataclass(frozen=True, slots=True)
class Group:
    """Decodes of a step with the sums that its time depends on, when the first of them is due, and their targets."""

    tasks: Sequence[Task]
    kv_tokens: int
    due_s: float
    targets: frozenset[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One step's view with what several of its decisions need."""

    view: View
    step_s: StepTime
    every: Group
    strict: Group
    relaxed: Group
    every_s: float
    """A step of all decodes and nothing else."""
    sit_out_s: float
    """The widest prompt step and a decode step behind it: a target below that is strict."""

    @property
    def due_s(self) -> float:
        return min(self.strict.due_s, self.relaxed.due_s)


class Plus(Plain):
    plans_width = True
    late_last: bool
    guard_s: float | None

    def __init__(self, bulk: Bulk | None = None, *, name: str = "slai-plus") -> None:
        self.name = name
        self.bulk = bulk or Bulk()
        self.late_last, self.guard_s = self.bulk.late_last, self.bulk.guard_s
        self.pace = Pace()
        self.until_known = Slai()
        self._is_known = False

    def queue_key(self, task: Task) -> tuple[float, ...]:
        return (self._strictness(task), task.known, task.arrival_s)

    def _strictness(self, task: Task) -> float:
        if not self.bulk.strict_first:
            return 0.0
        return math.inf if task.tbt_s is None else task.tbt_s

    def served(self, tasks: Sequence[Task], *, now_s: float, kv_usage: float) -> None:
        if not self._is_known:
            self.until_known.served(tasks, now_s=now_s, kv_usage=kv_usage)

    def stepped(self, work: Work, seconds: float, believed_s: float | None) -> None:
        self._is_known = believed_s is not None
        if believed_s is not None:
            self.pace = self.pace.learn(believed_s, seconds)
        else:
            self.until_known.stepped(work, seconds, believed_s)

    def wants_pure_decode(self, last_step_s: float, tightest_tbt_s: float | None) -> bool:
        """A step near the strictest target: from there on the relaxed may have to take turns."""
        return tightest_tbt_s is not None and last_step_s > 0.8 * self.bulk.aim * tightest_tbt_s

    def plan(self, view: View) -> StepPlan:
        if view.step_s is None:
            return self.until_known.plan(view)
        scene = self._scene(view, view.step_s)
        prompts = self._prompts(scene)
        if not prompts:
            return self._decodes(scene)
        decode_s = self.bulk.decode_margin * scene.every_s if scene.relaxed.tasks else 0.0
        slack_s = scene.relaxed.due_s - view.now_s - decode_s
        found = self._prefill(scene, prompts, slack_s)
        if found is not None:
            return self._maybe_mixed(scene, prompts, found)
        return self._mixed(scene, prompts) or self._decodes(scene)

    def _scene(self, view: View, believed: StepTime) -> Scene:
        ratio = self.pace.ratio

        def step_s(w: Work) -> float:
            return ratio * believed(w)

        every = self._group(view.decodes)
        every_s = step_s(_work((), every))
        sit_out_s = step_s(Work(new_tokens=self.bulk.widest, chunks=1)) + self.bulk.decode_margin * every_s
        strict, relaxed = self._split(every, sit_out_s)
        return Scene(
            view=view,
            step_s=step_s,
            every=every,
            strict=self._group(strict) if relaxed else every,
            relaxed=self._group(relaxed) if strict else every,
            every_s=every_s,
            sit_out_s=sit_out_s,
        )

    def _split(self, every: Group, sit_out_s: float) -> tuple[Sequence[Task], Sequence[Task]]:
        """Those whose target is strict, and the rest. Mostly all are of one kind, and nothing is copied."""
        decodes = every.tasks
        tight = {tbt_s for tbt_s in every.targets if self._is_tight(tbt_s, sit_out_s)}
        if not tight:
            return (), decodes
        if len(tight) == len(every.targets):
            return decodes, ()
        return [d for d in decodes if d.tbt_s in tight], [d for d in decodes if d.tbt_s not in tight]

    def _group(self, tasks: Sequence[Task]) -> Group:
        """Decodes served together have the same last token: this runs in every step, so a case is noted once a run."""
        kv, cases, aim = 0, set[tuple[float | None, float, float | None]](), self.bulk.aim
        last_s: float | None = math.nan
        pending_s, tbt_s = 0.0, None
        for d in tasks:
            kv += d.prompt_tokens + d.produced
            if d.last_token_s is not last_s or d.tbt_s is not tbt_s or d.pending_s is not pending_s:
                last_s, pending_s, tbt_s = d.last_token_s, d.pending_s, d.tbt_s
                cases.add((last_s, pending_s, tbt_s))
        due = [last + pending + aim * tbt for last, pending, tbt in cases if last is not None and tbt is not None]
        return Group(tasks, kv, min(due, default=math.inf), frozenset(tbt for _, _, tbt in cases))

    def _due_s(self, d: Task) -> float:
        if d.tbt_s is None or d.last_token_s is None:
            return -math.inf
        return d.last_token_s + d.pending_s + self.bulk.aim * d.tbt_s

    def _is_tight(self, tbt_s: float | None, sit_out_s: float) -> bool:
        """The target leaves no time to sit out one of the widest prompt steps and the decode step behind it."""
        return tbt_s is None or self.bulk.aim * tbt_s < sit_out_s

    def _decodes(self, scene: Scene) -> StepPlan:
        serve, waits, seconds = take_turns(scene.every.tasks, self._due_s, scene.step_s, self.bulk.aim)
        return StepPlan(
            mode=Mode.DECODE,
            serve=serve,
            waits=waits,
            budget_tokens=max(1, min(scene.view.budget_tokens, len(serve))),
            predicted_s=seconds,
        )

    # Which prompts

    def _prompts(self, scene: Scene) -> list[Task]:
        """Started and admissible ones, best first, no more than the widest step could hold."""
        view = scene.view
        fresh = self._admissible(scene, view.waiting.first(self.bulk.most_candidates))
        return sorted([*view.started, *fresh], key=lambda p: self._rank(p, view.now_s))

    def _rank(self, p: Task, now_s: float) -> tuple[float, ...]:
        """As the queue orders them, but by what remains of the prompt."""
        lead = (not p.produced, p.priority)  # with tokens already: it lost its cache while its client watches a stream
        if p.is_overdue:
            return (*lead, OVERDUE, p.arrival_s)
        is_late = self.late_last and p.ttft_s is not None and now_s > p.arrival_s + p.ttft_s
        return (*lead, LATE if is_late else ON_TIME, self._strictness(p), p.remaining, p.arrival_s)

    def _admissible(self, scene: Scene, candidates: Sequence[Task]) -> list[Task]:
        """Whole prompts that fit beside what is kept for shorter ones. One that does not is passed over, unless it is
        strict or overdue: nobody takes the memory that it waits for."""
        view, tokens = scene.view, 0
        free = max(0, view.free_tokens - sum(p.remaining for p in view.started))
        # An empty engine keeps nothing for anybody: nothing would change.
        will_free = bool(view.decodes or view.started)
        reserve = self.bulk.reserve * view.total_tokens if will_free else 0.0
        found: list[Task] = []
        for p in candidates:
            if len(found) >= view.seats or tokens >= self.bulk.widest:
                break
            if view.cached is not None:
                p.computed = view.cached(p)
            known = p.known
            is_strict = p.produced > 0 or p.is_overdue or self._is_strict(p, scene)
            kept = 0.0 if is_strict else reserve * min(1.0, known / self.bulk.long_tokens)
            if is_strict and known > free and will_free:
                break
            if free - known >= kept:
                found.append(p)
                free, tokens = free - known, tokens + p.remaining
        return found

    def _is_strict(self, p: Task, scene: Scene) -> bool:
        return p.tbt_s is not None and self._is_tight(p.tbt_s, scene.sit_out_s)

    # How wide

    def _widths(self, view: View, wanted: int, riding: int) -> range:
        """Widest first. However many decodes ride along, a tile is left for prompts."""
        least = min(max(self.bulk.narrowest, riding + self.bulk.tile), view.budget_tokens)
        most = max(least, min(self.bulk.widest, view.budget_tokens))
        top = max(least, min(most, -(-wanted // self.bulk.tile) * self.bulk.tile))
        return range(top, least - 1, -self.bulk.tile)

    def _prefill(self, scene: Scene, prompts: Sequence[Task], slack_s: float) -> StepPlan | None:
        """The widest step that leaves the waiting decodes their time; the narrowest if only a strict token is late."""
        plan, strict_s = None, scene.strict.due_s - scene.view.now_s
        riding = len(scene.strict.tasks)
        for width in self._widths(scene.view, prompts[0].remaining + riding, riding):
            plan = self._step(scene, Mode.PREFILL, prompts, scene.strict, width, slack_s)
            if _seconds(plan) <= min(slack_s, strict_s):
                return plan
        return plan if plan is not None and _seconds(plan) <= slack_s else None

    def _maybe_mixed(self, scene: Scene, prompts: Sequence[Task], plan: StepPlan) -> StepPlan:
        """RAD's prices: with a full cache, take the decodes along where that costs less than tile and decode step."""
        view, bulk = scene.view, self.bulk
        if view.kv_usage < bulk.mix_from or not scene.relaxed.tasks:
            return plan
        tile = packed(prompts, bulk.widest)
        price_s = scene.step_s(_work(tile, None)) / sum(n for _, n in tile)
        worth_s = scene.every_s
        latest_s = scene.due_s - view.now_s
        for width in reversed(range(bulk.narrowest, min(bulk.widest, view.budget_tokens) + 1, bulk.tile)):
            mixed = self._step(scene, Mode.MIXED, prompts, scene.every, width, plan.slack_s)
            tokens = sum(n for _, n in mixed.chunks)
            if tokens and _seconds(mixed) < tokens * price_s + worth_s and _seconds(mixed) <= latest_s:
                return mixed
        return plan

    def _mixed(self, scene: Scene, prompts: Sequence[Task]) -> StepPlan | None:
        """All decodes are due: prompts come along if that is cheaper than two steps and late for none."""
        everyone, riding = len(scene.every.tasks), len(scene.strict.tasks)
        for width in self._widths(scene.view, self.bulk.widest, 0):
            if width <= everyone:
                return None
            mixed = self._step(scene, Mode.MIXED, prompts, scene.every, width, math.inf)
            apart_s = scene.step_s(_work(packed(prompts, width - everyone), scene.strict if riding else None))
            seconds = _seconds(mixed)
            if seconds < apart_s + scene.every_s and scene.view.now_s + seconds <= scene.due_s:
                return mixed
        return None

    def _step(
        self, scene: Scene, mode: Mode, prompts: Sequence[Task], decodes: Group, width: int, slack_s: float
    ) -> StepPlan:
        chunks = packed(prompts, width - len(decodes.tasks))
        return StepPlan(
            mode=mode,
            serve=decodes.tasks,
            waits=scene.relaxed.tasks if mode is Mode.PREFILL else (),
            chunks=chunks,
            budget_tokens=min(scene.view.budget_tokens, max(width, len(decodes.tasks))),
            predicted_s=scene.step_s(_work(chunks, decodes)),
            slack_s=slack_s,
        )


def _seconds(plan: StepPlan) -> float:
    assert plan.predicted_s is not None
    return plan.predicted_s


def _work(chunks: Sequence[Chunk], decodes: Group | None) -> Work:
    return Work(
        new_tokens=sum(n for _, n in chunks),
        attention_tokens2=sum(n * (p.computed + n / 2) for p, n in chunks),
        context_tokens=sum(p.computed + n for p, n in chunks),
        chunks=len(chunks),
        decodes=len(decodes.tasks) if decodes else 0,
        decode_kv_tokens=decodes.kv_tokens if decodes else 0,
    )
