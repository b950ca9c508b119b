"""One request on its way through a simulated engine: what it asked for, how far it is, what its client saw."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A row of a trace. Tokens are counts; `tbt_s` None: no target, its decodes never wait."""

    time_s: float
    prompt_tokens: int
    output_tokens: int
    service_class: str = "default"
    tbt_s: float | None = None


@dataclass(slots=True, eq=False)
class Job:
    """State of one request. Compared by identity: two equal requests are still two."""

    asked: Arrival
    computed: int = 0
    """Tokens whose KV the engine holds."""
    produced: int = 0
    blocks: int = 0
    is_running: bool = False
    is_prefill: bool = True
    latest_start_s: float = -math.inf
    preemptions: int = 0
    first_token_s: float | None = None
    last_token_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)

    @property
    def known(self) -> int:
        """Prompt and answer so far: what must be computed before the next token can be sampled."""
        return self.asked.prompt_tokens + self.produced

    @property
    def is_done(self) -> bool:
        return self.produced >= self.asked.output_tokens

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_token_s is None else self.first_token_s - self.asked.time_s

    def token(self, now_s: float) -> None:
        """A token left the engine."""
        self.produced += 1
        if self.last_token_s is None:
            self.first_token_s = now_s
        else:
            self.gaps_s.append(now_s - self.last_token_s)
        self.last_token_s = now_s
