"""One request on its way through the simulated service, and the parts of it that engines see. No behaviour but sums."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from llmservice_core.model import ServiceClass
from llmservice_sim.jobs import Arrival, Job


class Outcome(StrEnum):
    OK = "ok"
    FAILED = "failed"
    """Its engine was lost after the client had seen tokens, or too often."""
    SHED = "shed"
    """No engine for longer than the router waits."""
    REFUSED = "refused"
    """Longer than the engine takes: the client's mistake, no event of any SLO."""


@dataclass(slots=True, eq=False)
class Request:
    """`outcome` None: under way. A stream; TTFT is judged at its first token or when its target passes."""

    asked: Arrival
    service_class: ServiceClass
    outcome: Outcome | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    is_judged: bool = False
    is_waiting_prompt: bool = False
    """Its prompt counts among those that no prefill has finished."""
    is_beside: bool = False
    """A decode engine with slack computes its prompt, too."""
    attempts: int = 0
    predicted_output: float = 0.0
    part: Part | None = None
    """What an engine works on now; None in the router and while KV moves."""
    tokens: int = 0
    gaps: int = 0
    late_gaps: int = 0

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_token_s is None else self.first_token_s - self.asked.time_s

    @property
    def is_ttft_met(self) -> bool:
        return self.ttft_s is not None and self.ttft_s <= self.service_class.ttft.target_s

    @property
    def is_good(self) -> bool:
        """Whole, its first token in time, and no more of its gaps late than the percentile allows."""
        allowed = (1.0 - self.service_class.tbt.share) * self.gaps
        return self.outcome is Outcome.OK and self.is_ttft_met and self.late_gaps <= allowed + 1e-9


@dataclass(slots=True, eq=False)
class Part(Job):
    """What one engine does for a request. `judged`: gaps that its counters have taken."""

    request: Request = field(kw_only=True)
    is_prompt_only: bool = field(default=False, kw_only=True)
    judged: int = field(default=0, kw_only=True)
