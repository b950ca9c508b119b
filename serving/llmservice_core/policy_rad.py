"""RAD, Algorithm 1 on one node: whole tiles of prompts until the decode batch is as wide as a tile, then decode.

Bari, Hegde, de Veciana, arXiv 2508.01002, section 4. No step mixes prompts and decodes, and RAD knows no TBT target
(the paper's section 5): it is the policy that reaches their throughput bound, not one to serve people with.
"""

from __future__ import annotations

import math

from llmservice_core.steps import Mode, Plain, StepPlan, Task, View, by_arrival, fitting, packed


class Rad(Plain):
    """`tile`: b_lcm, tokens of a prompt step. `width`: b_col, decodes at once, less where the KV cache holds fewer (a
    prompt that finds no blocks is none for this step; Assumption 4 says that this never happens). `cycle`: N, requests
    that one cycle takes; infinite: no cycles. `is_packed`: the next prompts fill the tile that the oldest leaves room
    in; Assumption 3 has no such rest, real prompts do."""

    plans_width = True

    def __init__(
        self,
        name: str = "rad",
        *,
        tile: int = 512,
        width: int = 128,
        cycle: float = math.inf,
        is_packed: bool = True,
    ) -> None:
        self.name = name
        self._tile, self._width, self._cycle, self._is_packed = tile, width, cycle, is_packed
        self._taken = 0

    def queue_key(self, task: Task) -> tuple[float, ...]:
        return (task.arrival_s,)

    def admitted(self, task: Task) -> None:
        self._taken += 1

    def plan(self, view: View) -> StepPlan:
        decodes = view.decodes
        if not decodes and not view.started:
            self._taken = 0  # the active ones of this cycle have run to completion
        prompts = self._prompts(view) if len(decodes) < self._width else []
        if not prompts:
            return StepPlan(mode=Mode.DECODE, serve=decodes, budget_tokens=max(1, len(decodes)))
        tokens = min(self._tile, view.budget_tokens)
        chunks = packed(prompts if self._is_packed else prompts[:1], tokens)
        return StepPlan(mode=Mode.PREFILL, serve=(), waits=decodes, chunks=chunks, budget_tokens=tokens)

    def _prompts(self, view: View) -> list[Task]:
        """P in age order: started ones, then those that this cycle may still take. No more than the batch has room for:
        each of them becomes a decode."""
        started = sorted(view.started, key=by_arrival)
        room = self._width - len(view.decodes) - len(started)
        allowed = int(min(room, self._cycle - self._taken, view.seats))
        fresh = fitting(view, view.waiting.first(max(0, allowed)), self._tile)
        return [*started, *fresh]
