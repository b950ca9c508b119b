"""What the scheduler knows about each request it has: class, targets, last token, when the next one is due. No vLLM."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmservice_core.ordering import Policy
from llmservice_serving.engine_numbers import EngineNumbers, Gaps
from llmservice_serving.engine_targets import Targets, parse

log = logging.getLogger("vllm.llmservice")


@dataclass(slots=True)
class Seat:
    """One request. `latest_start_s` minus infinity: its next token never waits."""

    targets: Targets
    arrival_s: float
    gaps: Gaps | None = None
    last_token_s: float | None = None
    latest_start_s: float = -math.inf

    def count(self, now_s: float, tokens: int) -> None:
        """Count the gap before each token. Tokens of one step leave together: only the first of them has a gap."""
        last_s, target_s = self.last_token_s, self.targets.tbt_s
        self.last_token_s = now_s
        if self.gaps is None or target_s is None:
            return
        events = tokens - (last_s is None)
        self.gaps.events += events
        self.gaps.good += events - (last_s is not None and now_s - last_s > target_s)


class Seats:
    """By request id. Bad values in a request are counted, one line is written for the first, nothing is raised."""

    def __init__(self) -> None:
        self.numbers: EngineNumbers | None = None
        self._seats: dict[str, Seat] = {}
        self._has_complained = False

    def get(self, request_id: str) -> Seat | None:
        return self._seats.get(request_id)

    def take(self, request_id: str, arrival_s: float, extra_args: Mapping[str, Any] | None) -> Seat:
        """The seat of a request, made at first sight."""
        known = self._seats.get(request_id)
        return known if known is not None else self._make(request_id, arrival_s, extra_args)

    def leave(self, request_id: str) -> None:
        self._seats.pop(request_id, None)

    def _make(self, request_id: str, arrival_s: float, extra_args: Mapping[str, Any] | None) -> Seat:
        parsed = parse(extra_args)
        if parsed.problem:
            self._complain(request_id, parsed.problem)
        t = parsed.targets
        seat = Seat(t, arrival_s - (t.age_s or 0.0))
        if t.tbt_s is not None and self.numbers is not None:
            seat.gaps = self.numbers.gaps_of(t.class_name, t.tbt_s)
        self._seats[request_id] = seat
        return seat

    def _complain(self, request_id: str, problem: str) -> None:
        if self.numbers is not None:
            self.numbers.bad_xargs += 1
        if not self._has_complained:
            self._has_complained = True
            log.warning(
                "request %s: %s; taken as unknown. Further ones are only counted in metrics", request_id, problem
            )

    def served(
        self, request_id: str, tokens: int, *, now_s: float, order: Policy | None, batch_s: float, kv_usage: float
    ) -> None:
        """Tokens of a request left the engine at `now_s`: count the gap, and set when the next one is due."""
        seat = self._seats.get(request_id)
        if seat is None or not tokens:
            return
        seat.count(now_s, tokens)
        if order is not None:
            seat.latest_start_s = order.latest_start(
                served_s=now_s, tbt_s=seat.targets.tbt_s, batch_s=batch_s, kv_usage=kv_usage
            )
