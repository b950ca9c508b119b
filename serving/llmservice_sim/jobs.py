"""One request on its way through a simulated engine: what it asked for, how far it is, what its client saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmservice_core.steps import DEFAULT_CLASS, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A row of a trace. Tokens are counts; `tbt_s` None: no target, its decodes never wait."""

    time_s: float
    prompt_tokens: int
    output_tokens: int
    service_class: str = DEFAULT_CLASS
    tbt_s: float | None = None
    ttft_s: float | None = None
    tenant: str = ""


@dataclass(slots=True, eq=False, kw_only=True)
class Job(Task):
    """State of one request. Compared by identity: two equal requests are still two."""

    asked: Arrival
    is_prefill: bool = True
    """After the step that was scheduled last, part of the prompt (or of what must be recomputed) is still missing."""
    blocks: int = 0
    preemptions: int = 0
    first_token_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return self.produced >= self.asked.output_tokens

    @property
    def ttft_seen_s(self) -> float | None:
        """From its arrival to its first token."""
        return None if self.first_token_s is None else self.first_token_s - self.asked.time_s

    def token(self, now_s: float) -> None:
        """A token left the engine."""
        self.produced += 1
        if self.last_token_s is None:
            self.first_token_s = now_s
        else:
            self.gaps_s.append(now_s - self.last_token_s)
        self.last_token_s = now_s


def job_of(arrival: Arrival) -> Job:
    return Job(**job_fields(arrival))


def job_fields(arrival: Arrival) -> dict[str, Any]:
    """What a Job is made of. The answer's length is known to nobody but an oracle."""
    return {
        "asked": arrival,
        "prompt_tokens": arrival.prompt_tokens,
        "arrival_s": arrival.time_s,
        "service_class": arrival.service_class,
        "tenant": arrival.tenant,
        "ttft_s": arrival.ttft_s,
        "tbt_s": arrival.tbt_s,
        "expected_output": float(arrival.output_tokens),
    }
