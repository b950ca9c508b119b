"""The duration of each engine step, with async scheduling and without, and its pace. No vLLM.

A step counts from the end of the one before while the engine is busy: the loop's own work between two steps takes
capacity as well. Steps without tokens are no steps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from llmservice_core.latency import Work
from llmservice_core.steps import StepPlan
from llmservice_serving.engine_numbers import EngineNumbers
from llmservice_serving.pace import Pace

IDLE_NAP_S = 0.001
NOTHING = Work()


@dataclass(slots=True)
class Flight:
    """A step between its scheduling and its result. `ticket` is whatever object the two have in common."""

    started_s: float
    ticket: object = None
    work: Work = NOTHING
    plan: StepPlan | None = None
    sat_out: Sequence[str] = ()
    """Requests that the plan gave nothing."""


class StepClock:
    def __init__(self) -> None:
        self.pace: Pace | None = None
        self.numbers: EngineNumbers | None = None
        self.ended_s = 0.0
        self.last_s = 0.0
        """Duration of the step that ended last."""
        self._flights: deque[Flight] = deque()
        self._busy_since_s: float | None = None

    def depart(self, now_s: float) -> Flight:
        flight = Flight(now_s)
        self._flights.append(flight)
        return flight

    def work(self, w: Work) -> None:
        """What the step that is being scheduled will compute."""
        if self._flights:
            self._flights[-1].work = w

    def land(self, ticket: object) -> Flight:
        """The step's result is there: sleep out its pace, take its duration. Dropped steps are skipped."""
        flight = self._find(ticket)
        if flight.work.tokens:
            self._close(flight)
        elif self.pace:
            time.sleep(IDLE_NAP_S)  # un-pulled blocks keep vLLM's loop spinning; a small machine needs the core
        return flight

    def _find(self, ticket: object) -> Flight:
        while self._flights:
            flight = self._flights.popleft()
            if flight.ticket is ticket:
                return flight
        return Flight(time.monotonic(), ticket)

    def _close(self, flight: Flight) -> None:
        started_s = flight.started_s if self._busy_since_s is None else self._busy_since_s
        missed = self.pace.wait(flight.work, started_s) if self.pace else None
        self.ended_s = time.monotonic()
        self.last_s = self.ended_s - started_s
        if self.numbers is not None:
            self.numbers.step(flight.work, self.last_s)
            if missed is not None:
                self.numbers.paced(overran=missed.overran, late_s=missed.late_s)

    def idle(self) -> None:
        """The loop stands still by an order from outside: that time is no step's."""
        self._busy_since_s = None

    def rest(self, flight: Flight, *, has_more: bool) -> None:
        """After the result was dealt with. Without more to do, or after an empty step, the next step counts from its
        own start."""
        self._busy_since_s = self.ended_s if has_more and flight.work.tokens else None
