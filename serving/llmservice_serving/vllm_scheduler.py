"""SLAI inside vLLM: the only importer of vLLM's scheduler. `vllm serve MODEL --scheduler-cls <this module>.SLAI`.

Small overrides that call super(); vLLM's schedule() is never copied. How a step goes:
1. before it, if there is prefill work, running requests are put in the policy's order: critical decodes, started
   prompts, other decodes. The last are hidden for this step by vLLM's own `next_decode_eligible_step`; they keep their
   place in `running`, so that its limits, its choice of victim and its counters stay right;
2. vLLM schedules what is left, prompts from a queue ordered by the policy;
3. while the step's data is put together, hidden decodes get what budget is left, in order.
Under slai-plus a plan says which decodes run, which prompts are offered and which started ones go on, each with tokens;
the same three steps carry it out. LLMSERVICE_POLICY=fcfs leaves vLLM's own order alone; numbers and pace work all the
same. Decisions are made in llmservice_core. Never raises on what a request says about itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from llmservice_core import contract
from llmservice_core.latency import Work, batch_work
from llmservice_core.ordering import Decode, Policy, Prompt, Started
from llmservice_serving import engine_exporter, pace
from llmservice_serving.engine_numbers import EngineNumbers
from llmservice_serving.engine_planner import Planner, prompt_of
from llmservice_serving.engine_policy import PLUS, from_environment
from llmservice_serving.engine_queue import Key, PromptQueue
from llmservice_serving.engine_reading import limits_of, live_of, room_of
from llmservice_serving.engine_seats import Seat, Seats
from llmservice_serving.engine_steps import StepClock

log = logging.getLogger("vllm.llmservice")


class SLAI(Scheduler):  # type: ignore[misc]
    """The public name, right with async scheduling and without: making one gives the variant that is configured."""

    order_waiting = True
    """Off: prompts are admitted in vLLM's order, so that vLLM's own scheduler tests can be run on this class."""
    order: Policy | None = None
    planner: Planner | None = None
    """Policy slai-plus: plans whole steps."""
    _seats: Seats
    _clock: StepClock
    _later: list[tuple[Request, int]]
    """Requests hidden from vLLM's own loop, with the tokens that they may get of what budget is left."""
    _unpulled: dict[str, int]
    _budget: int
    max_num_scheduled_tokens: int

    def __new__(cls, *args: Any, **kwargs: Any) -> SLAI:
        config = kwargs.get("vllm_config") or (args[0] if args else None)
        is_async = config is not None and bool(config.scheduler_config.async_scheduling)
        made: SLAI = object.__new__(_AsyncSLAI if is_async and cls is SLAI else cls)
        made._seats, made._clock = Seats(), StepClock()
        made._later, made._left_out, made._is_stuck = [], 0, False
        made._usage, made._batch_s, made._unpulled = 0.0, 0.0, {}
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock.pace = pace.from_environment()
        name, self.order = from_environment()
        if self.order is not None:
            self._clock.batch_mean = self.order.batch_mean()
        if self.order is not None and self.order_waiting and self.policy == SchedulingPolicy.FCFS:
            self.waiting = PromptQueue(self._waiting_key)
        scale = self._clock.pace.scale if self._clock.pace else 1
        numbers = EngineNumbers(limits_of(self, scale), lambda: live_of(self, self._left_out, self._unpulled))
        self._seats.numbers = self._clock.numbers = numbers
        if name == PLUS and isinstance(self.waiting, PromptQueue):
            paced = self._clock.pace
            self.planner = Planner(numbers, paced.duration_s if paced else None, scale)
        port = engine_exporter.start(numbers, self.parallel_config.data_parallel_index)
        how = os.environ.get(contract.ENV_PACE)
        log.info("policy %s, async %s, pace %s, metrics port %s", name, isinstance(self, AsyncScheduler), how, port)

    # Requests come and go

    def add_request(self, request: Request) -> None:
        self._seat(request)
        super().add_request(request)

    def _seat(self, request: Request) -> Seat:
        params = request.sampling_params
        return self._seats.take(request.request_id, request.arrival_time, params.extra_args if params else None)

    def _waiting_key(self, request: Request) -> Key:
        assert self.order is not None
        seat = self._seat(request)
        if self.planner is not None:
            return prompt_of(request, seat, 0, is_started=False).key
        was_running = request.num_output_tokens > 0  # its client watches a stream; a prompt that lost its blocks waits
        return self.order.waiting_key(
            Prompt(tokens=request.num_tokens, arrival=seat.arrival_s, tbt_s=seat.targets.tbt_s, was_running=was_running)
        )

    def _free_request(self, request: Request, delay_free_blocks: bool = False) -> Any:
        """vLLM keeps the blocks of a finished prompt until a decode engine has pulled them."""
        self._seats.leave(request.request_id)
        blocks = self._blocks(request) if self.connector is not None else 0
        freed = super()._free_request(request, delay_free_blocks=delay_free_blocks)
        if blocks and request.request_id in self.requests:
            self._unpulled[request.request_id] = blocks
        return freed

    def _blocks(self, request: Request) -> int:
        return sum(len(group) for group in self.kv_cache_manager.get_block_ids(request.request_id))

    def _free_blocks(self, request: Request) -> None:
        self._unpulled.pop(request.request_id, None)
        super()._free_blocks(request)

    # Before a step: order and hide

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        now_s = time.monotonic()
        self._later = []
        budget = self._budget = self.max_num_scheduled_tokens
        if self._may_hide() and not self._follow_a_plan(now_s):
            self._put_in_order(now_s)
        flight = self._clock.depart(now_s)
        try:
            output = flight.ticket = super().schedule(throttle_prefills)
        finally:
            self.max_num_scheduled_tokens = budget
            if self.planner is not None:
                self.waiting.offer_all()
        self._left_out = sum(r.request_id not in output.num_scheduled_tokens for r, _ in self._later)
        if self._clock.numbers is not None:
            self._clock.numbers.hidden_decodes += self._left_out
        # Something was held back and yet nothing ran: the prompts are stuck, so the next step holds back nothing.
        held_back = bool(self._later) or self.planner is not None
        self._is_stuck = held_back and output.total_num_scheduled_tokens == 0
        return output

    def _may_hide(self) -> bool:
        """Only where prefill work could use the room, and never with features whose slots we do not reason about."""
        return (
            self.order is not None
            and not self._is_stuck
            and (bool(self.running) or self.planner is not None)
            and self.pause_state == PauseState.UNPAUSED
            and self._has_prefill_work()
            and self.policy == SchedulingPolicy.FCFS
            and self.lora_config is None
            and self.num_spec_tokens == 0
            and self.ec_connector is None
            and self.parallel_config.pipeline_parallel_size == 1
        )

    def set_pause_state(self, pause_state: PauseState) -> None:
        super().set_pause_state(pause_state)
        self._clock.idle()

    def _has_prefill_work(self) -> bool:
        """A started prompt, or one that waits, is not blocked (say, for remote KV) and finds a place."""
        ready = len(self.waiting) + len(self.kv_holding_waiting) > len(self.deferred_waiting)
        return (ready and len(self.running) < self.max_num_active_reqs) or any(r.is_prefill_chunk for r in self.running)

    def _put_in_order(self, now_s: float) -> None:
        assert self.order is not None
        requests, decodes, started = list(self.running), [], []
        for i, r in enumerate(requests):
            seat = self._seat(r)
            if r.is_prefill_chunk:
                started.append(Started(seat.arrival_s, i))
            else:
                # Async scheduling: a token is under way that is one batch younger than the last one seen.
                pending_s = self._batch_s if r.num_output_placeholders else 0.0
                decodes.append(Decode(seat.latest_start_s + pending_s, seat.arrival_s, i))
        order = self.order.decide(now_s, decodes, started)
        # The tail is vLLM's pre-emption victim: the newest started prompt, as in the authors' code while there is one.
        self.running[:] = [requests[i] for i in (*order.critical, *order.later, *order.started)]
        later = [requests[i] for i in order.later]
        self._later = [(r, 1) for r in later if r.next_decode_eligible_step <= self.current_step + 1]
        self._hide(r for r, _ in self._later)

    def _hide(self, requests: Iterable[Request]) -> None:
        for r in requests:
            r.next_decode_eligible_step = self.current_step + 2  # schedule() counts one up before it compares

    def _follow_a_plan(self, now_s: float) -> bool:
        """False: there is none, and SLAI's order holds. KV from elsewhere is not reasoned about."""
        if self.planner is None or self.connector is not None or self.kv_holding_waiting:
            return False
        room = room_of(self, now_s, self._batch_s, self._budget)
        queue = self.waiting.first(self.planner.bulk.most_candidates)
        step = self.planner.arrange(list(self.running), queue, self.waiting.oldest(), self._seat, room)
        if step is None:
            return False
        self.running[:], self._later = step.running, step.later
        self._hide(step.hidden)
        self.waiting.offer(step.offered)
        self.max_num_scheduled_tokens = step.budget
        return True

    # While the step is put together: leftover budget

    def _make_cached_request_data(
        self,
        running_reqs: list[Request],
        resumed_reqs: list[Request],
        num_scheduled_tokens: dict[str, int],
        spec_decode_tokens: dict[str, list[int]],
        req_to_new_blocks: dict[str, Any],
    ) -> Any:
        """Called with the live lists of schedule(), before anything is built from them: the place to add decodes."""
        if self._later:
            self._add_later(running_reqs, num_scheduled_tokens, req_to_new_blocks)
        return super()._make_cached_request_data(
            running_reqs, resumed_reqs, num_scheduled_tokens, spec_decode_tokens, req_to_new_blocks
        )

    def _add_later(self, running: list[Request], scheduled: dict[str, int], new_blocks: dict[str, Any]) -> None:
        budget = self._budget - sum(scheduled.values())
        for r, most in self._later:
            n = min(most, budget)
            if n <= 0:
                continue
            if r.status != RequestStatus.RUNNING or not (r.is_prefill_chunk or self._has_next_token(r)):
                continue
            blocks = self.kv_cache_manager.allocate_slots(r, n, num_lookahead_tokens=self.num_lookahead_tokens)
            if blocks is None:
                return  # never pre-empt anybody for what can wait
            running.append(r)
            scheduled[r.request_id] = n
            new_blocks[r.request_id] = blocks
            budget -= n

    def _has_next_token(self, r: Request) -> bool:
        """The same tests that schedule() makes: a step in flight may already bring the last token."""
        is_last_under_way = r.num_output_placeholders > 0 and (
            r.num_computed_tokens + 2 - r.num_output_placeholders >= r.num_prompt_tokens + r.max_tokens
        )
        missing = r.num_tokens_with_spec + r.num_output_placeholders - r.num_computed_tokens
        fits = r.num_computed_tokens + self.num_sampled_tokens_per_step < self.max_model_len
        return missing == 1 and fits and not is_last_under_way

    def _build_kv_connector_meta(self, connector: Any, scheduler_output: SchedulerOutput) -> Any:
        self._correct_total(scheduler_output)
        return super()._build_kv_connector_meta(connector, scheduler_output)

    def _correct_total(self, output: SchedulerOutput) -> None:
        """The total was summed before decodes were added; a step that was empty until then also moves the fence."""
        total = sum(output.num_scheduled_tokens.values())
        if output.total_num_scheduled_tokens == 0 and total and self.defer_block_free:
            self.sched_step_seq += 1
        output.total_num_scheduled_tokens = total

    # After it: numbers

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        self._correct_total(scheduler_output)
        self._clock.work(self._work(scheduler_output))
        super()._update_after_schedule(scheduler_output)

    def _work(self, output: SchedulerOutput) -> Work:
        """The step's sums, before the requests' counters move."""
        tokens = output.num_scheduled_tokens.items()
        return batch_work(((q, self.requests[i].num_computed_tokens) for i, q in tokens), 1 + self.num_spec_tokens)

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: Any) -> Any:
        flight = self._clock.land(scheduler_output)
        if self.planner is not None:
            self.planner.saw(flight.work, self._clock.last_s)
        self._usage, self._batch_s = self.kv_cache_manager.usage, self._clock.batch_mean.seconds
        result = super().update_from_output(scheduler_output, model_runner_output)
        self._clock.rest(flight, has_more=self.get_num_unfinished_requests() > 0)
        return result

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        tokens, stopped = super()._update_request_with_output(request, new_token_ids, is_stale=is_stale)
        self._seats.served(
            request.request_id,
            len(tokens),
            now_s=self._clock.ended_s,
            order=self.order,
            batch_s=self._batch_s,
            kv_usage=self._usage,
        )
        return tokens, stopped


class _AsyncSLAI(SLAI, AsyncScheduler):  # type: ignore[misc]
    """SLAI over AsyncScheduler, whose overrides come next in line after ours."""
