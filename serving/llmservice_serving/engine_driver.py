"""A policy's plan in the terms of vLLM's scheduler, whose attributes it reads and sets. No vLLM import.

Nothing of vLLM's loop is copied. Requests that a plan holds back are hidden from it for one step by vLLM's own
`next_decode_eligible_step` and keep their place in `running`, so that its limits, its choice of victim and its counters
stay right; the queue offers the plan's prompts only; the step's budget is the plan's. What a plan gives to requests
that vLLM's loop would have served in another order (started prompts, decodes that take what is left) is added by the
scheduler class while the step is put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llmservice_core.steps import Policy, StepPlan, Task, View
from llmservice_core.token_budget import step_budget
from llmservice_serving.engine_seats import Seat, Seats
from llmservice_serving.engine_settings import SchedulerSettings
from llmservice_serving.engine_step_times import StepTimes

LOOK_UP_EVERY_S = 0.2


class Driver:
    def __init__(
        self, policy: Policy, settings: SchedulerSettings, seats: Seats, times: StepTimes, tile_tokens: int
    ) -> None:
        self.policy, self.times = policy, times
        self.plan: StepPlan | None = None
        """Of the step that is being scheduled, or was last."""
        self.later: list[tuple[Any, int]] = []
        """Requests hidden from vLLM's own loop, with the tokens that they may get of what budget is left."""
        self.hidden: list[Any] = []
        self._started: list[Any] = []
        self._decoding: list[Any] = []
        """The requests of a view's `started` and `decodes`, in their order."""
        self.budget = 0
        """Most tokens of the step, those of `later` included."""
        self._settings, self._seats, self._tile_tokens = settings, seats, tile_tokens

    def decide(self, scheduler: Any, now_s: float, last_step_s: float, pending_s: float, *, is_stuck: bool) -> None:
        """Sets `plan`; None: nothing is to be held back, and vLLM's own loop does the right thing.

        `pending_s`: with async scheduling, how much later than the last token seen the one under way will leave.
        """
        self.plan, self.later, self.hidden = None, [], []
        self.budget = scheduler.max_num_scheduled_tokens
        if is_stuck or not self._has_choice(scheduler, last_step_s):
            return
        scheduler.waiting.prompts.advance(now_s)
        view = self._view(scheduler, now_s, pending_s)
        self.plan = self.policy.plan(view)
        self._apply(scheduler, self.plan, view)

    def _has_choice(self, scheduler: Any, last_step_s: float) -> bool:
        """A started prompt, or one that waits, is not blocked (say, for its grammar) and finds a place."""
        blocked = max(0, len(scheduler.deferred_waiting) - len(scheduler.kv_holding_waiting))
        waits = len(scheduler.waiting.prompts) > blocked and len(scheduler.running) < scheduler.max_num_active_reqs
        if waits or any(r.is_prefill_chunk for r in scheduler.running):
            return True
        return bool(scheduler.running) and self.policy.wants_pure_decode(last_step_s, self._seats.tightest_tbt_s)

    def _view(self, scheduler: Any, now_s: float, pending_s: float) -> View:
        """One block of the cache is vLLM's own."""
        seats, running = self._seats.by_id, scheduler.running
        self._started = [r for r in running if r.is_prefill_chunk]
        self._decoding = running[: len(running) - len(self._started)]
        if running[len(self._decoding) :] != self._started:  # mostly the last ones, see _apply
            self._decoding = [r for r in running if not r.is_prefill_chunk]
        decodes: list[Task] = [seats[r.request_id] for r in self._decoding]
        started: list[Task] = [seats[r.request_id] for r in self._started]
        for seat, r in zip(started, self._started, strict=True):
            seat.computed = r.num_computed_tokens
        if pending_s:
            for seat, r in zip(decodes, self._decoding, strict=True):
                seat.pending_s = pending_s if r.num_output_placeholders else 0.0
        block, step_s = scheduler.block_size, self.times.believed
        return View(
            now_s=now_s,
            decodes=decodes,
            started=started,
            waiting=scheduler.waiting.prompts,
            free_tokens=scheduler.kv_cache_manager.block_pool.get_num_free_blocks() * block,
            total_tokens=(scheduler.cache_config.num_gpu_blocks - 1) * block,
            seats=scheduler.max_num_active_reqs - len(scheduler.running),
            budget_tokens=self._budget(decodes, started),
            step_s=step_s,
            cached=_prefix_cache(scheduler, now_s),
        )

    def _budget(self, decodes: Sequence[Task], started: Sequence[Task]) -> int:
        return step_budget(
            self.policy,
            decodes,
            started,
            fixed=self._settings.token_budget,
            step_s=self.times.believed,
            most=self.budget,
            tile=self._tile_tokens,
        )

    def _apply(self, scheduler: Any, plan: StepPlan, view: View) -> None:
        serve = self._decoding if plan.serve is view.decodes else _requests(plan.serve)
        later, waits = _requests(plan.later), _requests(plan.waits)
        chunks = [(_seat(task), n) for task, n in plan.chunks]
        going_on = [(seat.request, n) for seat, n in chunks if seat.is_started]
        new = [(seat, n) for seat, n in chunks if not seat.is_started]
        started = self._started
        # A plan does not count with requests whose KV comes from elsewhere: those whose KV is there come before all in
        # vLLM's loop, and without a token of budget nobody is looked at, so that no transfer would ever begin.
        arrived = sum(max(1, r.num_tokens - r.num_computed_tokens) for r in scheduler.kv_holding_waiting)
        arrived += scheduler.waiting.has_remote
        self.hidden = [*later, *waits]
        self.budget = min(self.budget, plan.budget_tokens + arrived)
        if plan.is_open:
            named = {r for r, _ in going_on}
            started = [*(r for r, _ in going_on), *(r for r in started if r not in named)]
            self.later = [(r, 1) for r in later]
            scheduler.max_num_scheduled_tokens = self.budget
            _hide(scheduler, self.hidden)
        else:
            self.later = [*going_on, *((r, 1) for r in later)]
            scheduler.waiting.offer([seat for seat, _ in new])
            loop_tokens = len(serve) + sum(n for _, n in new) + arrived
            scheduler.max_num_scheduled_tokens = max(1, min(self.budget, loop_tokens))
            _hide(scheduler, [*self.hidden, *started])
        # The tail is vLLM's victim.
        scheduler.running[:] = [*serve, *later, *waits, *started]


def _prefix_cache(scheduler: Any, now_s: float) -> Callable[[Task], int] | None:
    """The tokens of a waiting prompt that need no computing, looked up anew after a while. Counts as nothing in vLLM's
    statistics: what it admits it looks up itself."""
    manager = scheduler.kv_cache_manager
    if not manager.enable_caching:
        return None

    def cached(task: Task) -> int:
        seat = _seat(task)
        request = seat.request
        if now_s - seat.looked_up_s >= LOOK_UP_EVERY_S:
            seat.looked_up_s, seat.computed = now_s, 0
            if manager.prefix_cache_lookup_enabled(request):
                hit = manager.coordinator.find_longest_cache_hit(request.block_hashes, request.num_tokens - 1)
                seat.computed = hit[1]
        return seat.computed

    return cached


def _hide(scheduler: Any, requests: Iterable[Any]) -> None:
    until = scheduler.current_step + 2  # schedule() counts one up before it compares
    for r in requests:
        r.next_decode_eligible_step = until


def _seat(task: Task) -> Seat:
    assert isinstance(task, Seat)
    return task


def _requests(tasks: Iterable[Any]) -> list[Any]:
    return [task.request for task in tasks]
