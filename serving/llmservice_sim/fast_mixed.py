"""Prompts that a decode engine computes itself: one mixed step after the other, as wide as the tightest TBT allows.

The width is core/token_budget's rule, which engines follow under all policies that choose no width themselves. Coarser
than the exact engine: every decode rides in every mixed step (slai and slai-plus let relaxed ones wait), prompts go in
the order in which they came, and memory for a whole prompt is taken when it begins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from llmservice_core.latency import Work
from llmservice_core.token_budget import AIM, TILE
from llmservice_sim.fleet_requests import Part
from llmservice_sim.fleet_settings import Replica


@dataclass(slots=True, eq=False)
class Prompts:
    """`widest`: tokens of a step that the policy never goes above; None: the engine's own limit."""

    replica: Replica
    widest: int | None = None
    parts: list[Part] = field(default_factory=list)
    kv: int = 0
    """Tokens that these prompts will hold."""
    _done: list[Part] = field(default_factory=list)
    _next: tuple[list[tuple[Part, int]], Work, float] | None = None

    def begin(self, part: Part) -> None:
        self.parts.append(part)
        self.kv += part.known
        self._next = None

    def step(self, decodes: int, decode_kv: int, tightest_s: float) -> tuple[Work, float]:
        """Work and seconds of the next step, the same until it has landed."""
        if self._next is None:
            self._next = self._planned(decodes, decode_kv, tightest_s)
        return self._next[1], self._next[2]

    def _planned(self, decodes: int, decode_kv: int, tightest_s: float) -> tuple[list[tuple[Part, int]], Work, float]:
        most = min(self.replica.limits.max_batched_tokens, self.widest or math.inf)
        tiles = 1
        while True:
            chunks = self._chunks(tiles * TILE if math.isfinite(tightest_s) else int(most))
            work = _work(chunks, decodes, decode_kv)
            seconds = self.replica.step_time(work)
            is_all = work.new_tokens < tiles * TILE or decodes + (tiles + 1) * TILE > most
            if math.isinf(tightest_s) or is_all:
                return chunks, work, seconds
            wider = self._chunks((tiles + 1) * TILE)
            if self.replica.step_time(_work(wider, decodes, decode_kv)) > AIM * tightest_s:
                return chunks, work, seconds
            tiles += 1

    def _chunks(self, tokens: int) -> list[tuple[Part, int]]:
        found = []
        for part in self.parts:
            n = min(tokens, part.remaining)
            if n > 0:
                found.append((part, n))
                tokens -= n
        return found

    def landed(self) -> list[Part]:
        """The step is over: those whose prompt is computed, and with it their first token."""
        assert self._next is not None
        chunks, self._next = self._next[0], None
        for part, n in chunks:
            part.computed += n
        done = [p for p in self.parts if p.remaining <= 0]
        for part in done:
            self.parts.remove(part)
            self.kv -= part.known
        self._done += done
        return done

    def take_done(self) -> list[Part]:
        """Those whose first token nobody has seen yet."""
        done, self._done = self._done, []
        return done

    def drop(self, part: Part) -> None:
        if part in self.parts:
            self.parts.remove(part)
            self.kv -= part.known
            self._next = None


def _work(chunks: list[tuple[Part, int]], decodes: int, decode_kv: int) -> Work:
    return Work(
        new_tokens=sum(n for _, n in chunks),
        attention_tokens2=sum(n * (p.computed + n / 2) for p, n in chunks),
        context_tokens=sum(p.computed + n for p, n in chunks),
        chunks=len(chunks),
        decodes=decodes,
        decode_kv_tokens=decode_kv,
    )
