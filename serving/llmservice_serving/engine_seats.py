"""The requests of an engine as policies see them, with the gaps between their tokens. No vLLM."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import Any

from llmservice_core.steps import Policy, Task
from llmservice_serving.engine_numbers import EngineNumbers, Gaps
from llmservice_serving.engine_targets import parse

log = logging.getLogger("vllm.llmservice")


@dataclass(slots=True, eq=False, kw_only=True)
class Seat(Task):
    """One of vLLM's requests. Its arrival is on the monotonic clock, as all times of an engine."""

    request: Any
    gaps: Gaps | None = None
    was_admitted: bool = False

    def count(self, now_s: float, tokens: int) -> None:
        """Count the gap before each token. Tokens of one step leave together: only the first of them has a gap."""
        last_s, target_s = self.last_token_s, self.tbt_s
        self.last_token_s = now_s
        if self.gaps is None or target_s is None:
            return
        events = tokens - (last_s is None)
        self.gaps.events += events
        self.gaps.good += events - (last_s is not None and now_s - last_s > target_s)

    def back_in_line(self) -> None:
        """It waits: for the first time, or because it was pre-empted."""
        params = self.request.kv_transfer_params
        self.is_remote = bool(params and params.get("do_remote_prefill"))
        self.is_started, self.computed = False, 0
        self.prompt_tokens = self.request.num_tokens - self.produced


class Seats:
    """By request id. Bad values in a request are counted, one line is written for the first, nothing is raised."""

    def __init__(self) -> None:
        self.numbers: EngineNumbers | None = None
        self.policy: Policy | None = None
        self._seats: dict[str, Seat] = {}
        self._targets: Counter[float] = Counter()
        self._serial = count()
        self._has_complained = False

    def __len__(self) -> int:
        return len(self._seats)

    def of(self, request: Any) -> Seat:
        """The seat of a request, made at first sight."""
        known = self._seats.get(request.request_id)
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
        self._seats[request.request_id] = seat
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
        seat = self._seats.get(request_id)
        if seat is None:
            return
        seat.is_started = True
        if not seat.was_admitted and self.policy is not None:
            self.policy.admitted(seat)
        seat.was_admitted = True

    def served(self, request_id: str, tokens: int, *, now_s: float, kv_usage: float) -> None:
        """Tokens of a request left the engine at `now_s`: count the gap, tell the policy."""
        seat = self._seats.get(request_id)
        if seat is None or not tokens:
            return
        seat.produced += tokens
        seat.count(now_s, tokens)
        if self.policy is not None:
            self.policy.served(seat, tokens, now_s=now_s, kv_usage=kv_usage)

    def leave(self, request_id: str, *, is_complete: bool) -> None:
        seat = self._seats.pop(request_id, None)
        if seat is None:
            return
        if seat.tbt_s is not None:
            self._targets[seat.tbt_s] -= 1
            if not self._targets[seat.tbt_s]:
                del self._targets[seat.tbt_s]
        if self.policy is not None:
            self.policy.left(seat, is_complete=is_complete)
