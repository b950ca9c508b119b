"""A prefill engine, step by step but with little bookkeeping: prompts in the order of the policy, packed into steps.

The order is the policy's own key; a policy that chooses widths itself gets whole tiles for the prompt in front, with
started prompts in the same order as others (slai-plus), the others fill the token budget and finish what they started.
Coarser than the exact engine: memory and seats never bind, no guard for prompts that waited long.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

from llmservice_core.bulk import Bulk
from llmservice_core.latency import Work
from llmservice_core.steps import Policy
from llmservice_sim.fleet_requests import Part
from llmservice_sim.fleet_settings import Replica

Rank = tuple[float, ...]


@dataclass(slots=True, eq=False)
class FastPrefill:
    replica: Replica
    policy: Policy | None
    """None: first come, first served."""
    bulk: Bulk = field(default_factory=Bulk)
    queue: list[tuple[Rank, int, Part]] = field(default_factory=list)
    is_busy: bool = False
    _serial: int = 0

    @property
    def kv_usage(self) -> float:
        return min(1.0, sum(part.known for _, _, part in self.queue) / self.replica.kv_tokens)

    def add(self, part: Part, now_s: float) -> None:
        self._serial += 1
        part.serial = self._serial
        self._push(part, now_s)

    def _push(self, part: Part, now_s: float) -> None:
        heapq.heappush(self.queue, (self._rank(part, now_s), part.serial, part))

    def _rank(self, part: Part, now_s: float) -> Rank:
        """Late ones last where the policy has it so."""
        policy = self.policy
        if policy is None:
            return (0.0, part.arrival_s)
        is_late = policy.late_last and part.ttft_s is not None and now_s > part.arrival_s + part.ttft_s
        if policy.plans_width:
            strictness = math.inf if part.tbt_s is None else part.tbt_s
            return (3.0 if is_late else 0.0, strictness, part.remaining, part.arrival_s)
        return (-1.0 if part.computed else 3.0 if is_late else 0.0, *policy.queue_key(part))

    def step(self, now_s: float) -> list[tuple[Part, int]]:
        """(prompt, new tokens) of the next step; they are taken out of the queue until `landed`."""
        chunks: list[tuple[Part, int]] = []
        left = 0
        while self.queue:
            rank, _, part = heapq.heappop(self.queue)
            if rank[0] == 0.0 and self._rank(part, now_s)[0] > 0.0:
                self._push(part, now_s)
                continue
            if not chunks:
                left = self._width(part)
            tokens = min(left, part.remaining)
            chunks.append((part, tokens))
            left -= tokens
            if left <= 0:
                break
        self.is_busy = bool(chunks)
        return chunks

    def _width(self, first: Part) -> int:
        most = self.replica.limits.max_batched_tokens
        if self.policy is None or not self.policy.plans_width:
            return most
        bulk = self.bulk
        wanted = -(-first.remaining // bulk.tile) * bulk.tile
        return min(most, max(bulk.narrowest, min(bulk.widest, wanted)))

    def work(self, chunks: list[tuple[Part, int]]) -> Work:
        new = attention = context = 0.0
        for part, n in chunks:
            new += n
            attention += n * (part.computed + n / 2)
            context += part.computed + n
        return Work(new_tokens=new, attention_tokens2=attention, context_tokens=context, chunks=len(chunks))

    def landed(self, chunks: list[tuple[Part, int]], now_s: float) -> list[Part]:
        """Prompts that are computed; the others queue again."""
        self.is_busy, done = False, []
        for part, n in chunks:
            part.computed += n
            if part.remaining <= 0:
                done.append(part)
            else:
                self._push(part, now_s)
        return done
