"""Our policies inside vLLM: the only importer of its scheduler. `vllm serve MODEL --scheduler-cls <this module>.SLAI`.

Small overrides that call super(); vLLM's schedule() is never copied. How a step goes:
1. before it, if there is something to hold back, the policy (llmservice_core) plans it and the driver puts the plan in
   vLLM's terms: running requests in order, those that get nothing hidden for this step, prompts offered, a budget;
2. vLLM schedules what it sees;
3. while the step's data is put together, started prompts and decodes that the plan put last get what budget is left.
Policy fcfs leaves vLLM's own order alone; numbers and pace work all the same, and so it is with features whose slots we
do not reason about (LoRA, speculation, pipeline parallelism): one line of the log says so. Never raises on what a
request says about itself.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from llmservice_core import contract
from llmservice_core.latency import Work
from llmservice_serving import engine_exporter, engine_settings, engine_trace, pace
from llmservice_serving.engine_driver import Driver
from llmservice_serving.engine_explain import explain
from llmservice_serving.engine_misses import StepFacts
from llmservice_serving.engine_numbers import EngineNumbers
from llmservice_serving.engine_queue import PromptQueue
from llmservice_serving.engine_reading import limits_of, live_of, step_work
from llmservice_serving.engine_seats import Seats
from llmservice_serving.engine_step_times import StepTimes
from llmservice_serving.engine_steps import Flight, StepClock

log = logging.getLogger("vllm.llmservice")
COMPLETE = (RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED)


class SLAI(Scheduler):  # type: ignore[misc]
    """The public name, right with async scheduling and without: making one gives the variant that is configured."""

    order_waiting = True
    """Off: no policy, vLLM's order, so that its own scheduler tests can be run on this class as they are."""
    driver: Driver | None = None
    _seats: Seats
    _clock: StepClock
    _unpulled: dict[str, int]
    max_num_scheduled_tokens: int

    def __new__(cls, *args: Any, **kwargs: Any) -> SLAI:
        config = kwargs.get("vllm_config") or (args[0] if args else None)
        is_async = config is not None and bool(config.scheduler_config.async_scheduling)
        made: SLAI = object.__new__(_AsyncSLAI if is_async and cls is SLAI else cls)
        made._seats, made._clock = Seats(), StepClock()
        made._is_stuck, made._left_out, made._unpulled = False, 0, {}
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock.pace = pace.from_environment()
        scale = self._clock.pace.scale if self._clock.pace else 1
        numbers = EngineNumbers(limits_of(self, scale), lambda: live_of(self, self._left_out, self._unpulled))
        self._seats.numbers = self._clock.numbers = numbers
        settings = engine_settings.read(os.environ, self.vllm_config.additional_config)
        policy = settings.make(scale)
        missing = self._not_reasoned_about()
        if policy is not None and missing:
            log.warning("policy %s is not used: this engine has %s; vLLM's own order holds", policy.name, missing)
        elif policy is not None and self.order_waiting:
            self._seats.policy = policy
            self.waiting = PromptQueue(policy, self._seats.of)
            self._seats.settled = self.waiting.settled
            times = StepTimes(numbers, self._clock.pace.duration_s if self._clock.pace else None)
            self.driver = Driver(policy, settings, self._seats, times, numbers.limits.tile_tokens)
        self._trace = engine_trace.from_environment()
        port = engine_exporter.start(numbers, lambda: explain(self), self.parallel_config.data_parallel_index)
        name, how = self.driver.policy.name if self.driver else "fcfs", os.environ.get(contract.ENV_PACE)
        log.info("policy %s, async %s, pace %s, metrics port %s", name, isinstance(self, AsyncScheduler), how, port)

    def _not_reasoned_about(self) -> str | None:
        """What this engine was started with whose slots and batches no plan counts with."""
        found = {
            "--scheduling-policy priority": self.policy != SchedulingPolicy.FCFS,
            "LoRA": self.lora_config is not None,
            "speculative decoding": self.num_spec_tokens > 0,
            "an encoder connector": self.ec_connector is not None,
            "pipeline parallelism": self.parallel_config.pipeline_parallel_size > 1,
        }
        return ", ".join(name for name, is_there in found.items() if is_there) or None

    # Requests come and go

    def add_request(self, request: Request) -> None:
        self._seats.of(request)
        super().add_request(request)

    def _free_request(self, request: Request, delay_free_blocks: bool = False) -> Any:
        """vLLM keeps the blocks of a finished prompt until a decode engine has pulled them."""
        self._seats.leave(request.request_id, is_complete=request.status in COMPLETE)
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

    # Before a step

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        now_s = time.monotonic()
        driver, tokens = self.driver, self.max_num_scheduled_tokens
        flight = self._clock.depart(now_s)
        try:
            if driver is not None:
                self._plan(driver, now_s)
            output = flight.ticket = super().schedule(throttle_prefills)
        finally:
            self.max_num_scheduled_tokens = tokens
            if driver is not None:
                self.waiting.offer_all()
        if driver is not None:
            self._note(driver, flight, output)
        return output

    def _plan(self, driver: Driver, now_s: float) -> None:
        is_paused = self.pause_state != PauseState.UNPAUSED
        pending_s = self._clock.last_s if isinstance(self, AsyncScheduler) else 0.0
        driver.decide(self, now_s, self._clock.last_s, pending_s, is_stuck=self._is_stuck or is_paused)

    def _note(self, driver: Driver, flight: Flight, output: SchedulerOutput) -> None:
        scheduled = output.num_scheduled_tokens
        for new in output.scheduled_new_reqs:
            self._seats.admitted(new.req_id)
        for request_id in output.scheduled_cached_reqs.resumed_req_ids:
            self._seats.admitted(request_id)
        flight.plan = driver.plan
        flight.sat_out = [r.request_id for r in driver.hidden if r.request_id not in scheduled]
        self._left_out = len(flight.sat_out)
        self._seats.sit_out(flight.sat_out)
        if self._clock.numbers is not None:
            self._clock.numbers.hidden_decodes += self._left_out
        # Something was held back and yet nothing ran: it is stuck, so the next step holds back nothing.
        self._is_stuck = driver.plan is not None and output.total_num_scheduled_tokens == 0

    def set_pause_state(self, pause_state: PauseState) -> None:
        super().set_pause_state(pause_state)
        self._clock.idle()

    # While the step is put together: leftover budget

    def _make_cached_request_data(
        self,
        running_reqs: list[Request],
        resumed_reqs: list[Request],
        num_scheduled_tokens: dict[str, int],
        spec_decode_tokens: dict[str, list[int]],
        req_to_new_blocks: dict[str, Any],
    ) -> Any:
        """Called with the live lists of schedule(), before anything is built from them: the place to add requests."""
        if self.driver is not None and self.driver.later:
            self._add_later(self.driver, running_reqs, num_scheduled_tokens, req_to_new_blocks)
        return super()._make_cached_request_data(
            running_reqs, resumed_reqs, num_scheduled_tokens, spec_decode_tokens, req_to_new_blocks
        )

    def _add_later(
        self, driver: Driver, running: list[Request], scheduled: dict[str, int], new_blocks: dict[str, Any]
    ) -> None:
        budget = driver.budget - sum(scheduled.values())
        for r, most in driver.later:
            n = min(most, budget)
            if n <= 0:
                return
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
        return step_work(self.requests, output.num_scheduled_tokens, 1 + self.num_spec_tokens)

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: Any) -> Any:
        flight, clock = self._clock.land(scheduler_output), self._clock
        if self.driver is not None and flight.work.tokens:
            believed = self.driver.times.believed
            self.driver.policy.stepped(flight.work, clock.last_s, believed(flight.work) if believed else None)
        if self._trace is not None and flight.work.tokens:
            scheduled = scheduler_output.num_scheduled_tokens
            self._trace.step(flight, clock.ended_s - clock.last_s, clock.ended_s, scheduled, self._seats.by_id)
        tokens = model_runner_output.sampled_token_ids
        if tokens:
            step = StepFacts(
                ended_s=clock.ended_s,
                seconds=clock.last_s,
                has_prompts=flight.work.chunks > 0,
                kv_usage=self.kv_cache_manager.usage,
            )
            self._seats.served(model_runner_output.req_ids, tokens, step)
        result = super().update_from_output(scheduler_output, model_runner_output)
        clock.rest(flight, has_more=self.get_num_unfinished_requests() > 0)
        return result


class _AsyncSLAI(SLAI, AsyncScheduler):  # type: ignore[misc]
    """SLAI over AsyncScheduler, whose overrides come next in line after ours."""
