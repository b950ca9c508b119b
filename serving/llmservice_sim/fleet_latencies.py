"""Latencies of the last minute as shares of their targets: the signal of laws that scale by latency."""

from __future__ import annotations

from collections import deque

from llmservice_core.model import Pool
from llmservice_sim.fleet_requests import Request
from llmservice_sim.summary import percentile

WINDOW_S = 60.0
SHARE = 0.90
TTFT, TPOT = "ttft", "tpot"
OF_POOL = {Pool.PREFILL: (TTFT,), Pool.DECODE: (TPOT,), Pool.MIXED: (TTFT, TPOT)}

Rows = deque[tuple[float, float]]


class Latencies:
    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Rows] = {}

    def first_token(self, request: Request) -> None:
        assert request.first_token_s is not None
        assert request.ttft_s is not None
        self._add(TTFT, request, request.first_token_s, request.ttft_s / request.service_class.ttft.target_s)

    def answer(self, request: Request) -> None:
        """An answer with two tokens or more has ended."""
        if request.ended_s is None or request.first_token_s is None or request.tokens < 2:
            return
        gap_s = (request.ended_s - request.first_token_s) / (request.tokens - 1)
        self._add(TPOT, request, request.ended_s, gap_s / request.service_class.tbt.target_s)

    def _add(self, what: str, request: Request, time_s: float, share: float) -> None:
        rows = self._rows.setdefault((what, request.service_class.name), deque())
        rows.append((time_s, share))
        while rows[0][0] < time_s - WINDOW_S:
            rows.popleft()

    def worst(self, pool: Pool, *, now_s: float) -> float | None:
        found = []
        for (what, _), rows in self._rows.items():
            if what in OF_POOL[pool]:
                found.append(percentile(sorted(s for t, s in rows if t > now_s - WINDOW_S), SHARE))
        return max((s for s in found if s is not None), default=None)
