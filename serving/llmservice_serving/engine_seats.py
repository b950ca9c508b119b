"""The requests of an engine as policies see them, with the gaps between their tokens. No vLLM."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from llmservice_core.steps import Policy, Task
from llmservice_serving.engine_misses import Gaps, StepFacts, cause
from llmservice_serving.engine_numbers import EngineNumbers
from llmservice_serving.engine_targets import parse

log = logging.getLogger("vllm.llmservice")


@dataclass(slots=True, eq=False, kw_only=True)
class Seat(Task):
    """One of vLLM's requests. Its arrival is on the monotonic clock, as all times of an engine."""

    request: Any
    gaps: Gaps | None = None
    was_admitted: bool = False
    looked_up_s: float = -math.inf
    """When its prompt was last looked up in the prefix cache."""
    sat_out: int = 0
    """Steps since its last token that a plan let it sit out."""
    preemptions: int = 0
    """Those that were seen to have made a token late."""

    def why_late(self, gaps: Gaps, step: StepFacts) -> str:
        """Its token came too late with this step: what made it so."""
        preemptions = self.request.num_preemptions
        was_preempted, self.preemptions = preemptions > self.preemptions, preemptions
        return cause(was_preempted=was_preempted, sat_out=self.sat_out, target_s=gaps.target_s, step=step)

    def back_in_line(self) -> None:
        """It waits: for the first time, or because it was pre-empted."""
        params = self.request.kv_transfer_params
        self.is_remote = bool(params and params.get("do_remote_prefill"))
        self.is_started, self.computed, self.looked_up_s = False, 0, -math.inf
        self.produced = self.request.num_output_tokens
        self.prompt_tokens = self.request.num_tokens - self.produced


class Seats:
    """By request id. Bad values in a request are counted, one line is written for the first, nothing is raised."""

    def __init__(self) -> None:
        self.numbers: EngineNumbers | None = None
        self.policy: Policy | None = None
        self.settled: Callable[[Seat], None] = _nothing
        """Told of each request that has started, or has left."""
        self.by_id: dict[str, Seat] = {}
        self._targets: Counter[float] = Counter()
        self._serial = count()
        self._has_complained = False
        self._has_held_back = False

    def __len__(self) -> int:
        return len(self.by_id)

    def of(self, request: Any) -> Seat:
        """The seat of a request, made at first sight."""
        known = self.by_id.get(request.request_id)
        return known if known is not None else self._make(request)

    @property
    def tightest_tbt_s(self) -> float | None:
        return min(self._targets, default=None)

    def _make(self, request: Any) -> Seat:
        params = request.sampling_params
        parsed = parse(params.extra_args if params else None)
        if parsed.problem:
            self._complain(request.request_id, parsed.problem)
        t = parsed.targets
        waited_s = max(0.0, time.time() - request.arrival_time) + (t.age_s or 0.0)
        seat = Seat(
            request=request,
            prompt_tokens=request.num_tokens,
            arrival_s=time.monotonic() - waited_s,
            service_class=t.class_name,
            tenant=t.tenant,
            ttft_s=t.ttft_s,
            tbt_s=t.tbt_s,
            priority=request.priority,
            expected_output=float(request.max_tokens) if request.max_tokens else None,
            serial=next(self._serial),
        )
        if t.tbt_s is not None:
            self._targets[t.tbt_s] += 1
            if self.numbers is not None:
                seat.gaps = self.numbers.gaps_of(t.class_name, t.tbt_s)
        self.by_id[request.request_id] = seat
        if self.policy is not None:
            self.policy.joined(seat)
        return seat

    def _complain(self, request_id: str, problem: str) -> None:
        if self.numbers is not None:
            self.numbers.bad_xargs += 1
        if not self._has_complained:
            self._has_complained = True
            log.warning(
                "request %s: %s; taken as unknown. Further ones are only counted in metrics", request_id, problem
            )

    def admitted(self, request_id: str) -> None:
        """Its tokens are in the step that was just formed, and were in none before (or before it was pre-empted)."""
        seat = self.by_id.get(request_id)
        if seat is None:
            return
        seat.is_started = True
        if not seat.was_admitted and self.policy is not None:
            self.policy.admitted(seat)
        seat.was_admitted = True
        self.settled(seat)

    def served(self, request_ids: Sequence[str], tokens: Sequence[Sequence[int]], step: StepFacts) -> None:
        """Tokens of these requests left the engine with this step: count the gaps before them, tell the policy.

        Once per request and step: requests of one class that were last served together have the same gap, so it is
        counted once for each run of them. Further tokens of a request in one step have no gap: they are in time.
        """
        seats, now_s = self.by_id, step.ended_s
        heard: list[Seat] = []
        run_gaps, run_last_s, run_from = None, None, 0
        for request_id, new in zip(request_ids, tokens, strict=False):
            if not new or request_id not in seats:
                continue
            seat = seats[request_id]
            if seat.last_token_s != run_last_s or seat.gaps is not run_gaps:
                _count(run_gaps, run_last_s, heard, run_from, step)
                run_gaps, run_last_s, run_from = seat.gaps, seat.last_token_s, len(heard)
            n = len(new)
            if n > 1 and seat.gaps is not None:
                seat.gaps.in_time(n - 1)
            seat.produced += n
            seat.last_token_s = now_s
            heard.append(seat)
        _count(run_gaps, run_last_s, heard, run_from, step)
        if self._has_held_back:
            for seat in heard:
                seat.sat_out = 0
        if self.policy is not None and heard:
            self.policy.served(heard, now_s=now_s, kv_usage=step.kv_usage)

    def sit_out(self, request_ids: Sequence[str]) -> None:
        """These got nothing in a step, by a plan."""
        self._has_held_back = self._has_held_back or bool(request_ids)
        for request_id in request_ids:
            self.by_id[request_id].sat_out += 1

    def leave(self, request_id: str, *, is_complete: bool) -> None:
        seat = self.by_id.pop(request_id, None)
        if seat is None:
            return
        if seat.tbt_s is not None:
            self._targets[seat.tbt_s] -= 1
            if not self._targets[seat.tbt_s]:
                del self._targets[seat.tbt_s]
        if self.policy is not None:
            self.policy.left(seat, is_complete=is_complete)
            self.settled(seat)


def _nothing(_: Seat) -> None:
    """Nobody waits for this news."""


def _count(gaps: Gaps | None, last_s: float | None, seats: Sequence[Seat], first: int, step: StepFacts) -> None:
    """Seats from `first` on, whose last tokens left together at `last_s`; None: these are their first, which have no
    gap."""
    if gaps is None or last_s is None or first == len(seats):
        return
    if gaps.count(step.ended_s - last_s, len(seats) - first):
        _miss(gaps, seats[first:], step)


def _miss(gaps: Gaps, late: Sequence[Seat], step: StepFacts) -> None:
    """Count what made them late: of most it is the step alone, so that is found once."""
    special = [s for s in late if s.sat_out or s.request.num_preemptions > s.preemptions]
    for seat in special:
        gaps.misses[seat.why_late(gaps, step)] += 1
    others = cause(was_preempted=False, sat_out=0, target_s=gaps.target_s, step=step)
    gaps.misses[others] += len(late) - len(special)
