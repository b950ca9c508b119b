"""A decode engine in closed form: between a join and a finish nothing changes but the length of the KV cache.

With n sequences a step takes a(n) + c(n) KV, and KV grows by n a step, so k steps take a sum that can be written down
and turned round. Joins and finishes happen at ends of steps, as in the exact engine. Coarser than it: KV in tokens
instead of blocks, and a pre-empted sequence is computed again in one step of its own. Prompts that are computed here
(`fast_mixed`) go step by step.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmservice_core.latency import Work
from llmservice_core.metric_names import KINDS
from llmservice_core.steps import StepTime
from llmservice_sim.fast_counters import GapCounts, add_run
from llmservice_sim.fast_mixed import Prompts
from llmservice_sim.fleet_counters import EngineCounters
from llmservice_sim.fleet_requests import Part
from llmservice_sim.fleet_settings import Replica

DECODE = KINDS[1]
FAR_KV = 100_000.0


class Lines:
    """(a, c) of a decode step of n sequences, asked of the step model once for each n."""

    def __init__(self, step_time: StepTime) -> None:
        self._step_time = step_time
        self._known: dict[int, tuple[float, float]] = {}

    def of(self, n: int) -> tuple[float, float]:
        if n not in self._known:
            near, far = (self._step_time(Work(decodes=n, decode_kv_tokens=kv)) for kv in (n, n + FAR_KV))
            slope = (far - near) / FAR_KV
            self._known[n] = (near - slope * n, slope)
        return self._known[n]

    def prompt_s(self, tokens: int) -> float:
        return self._step_time(
            Work(new_tokens=tokens, attention_tokens2=tokens**2 / 2, context_tokens=tokens, chunks=1)
        )


@dataclass(slots=True)
class Seat:
    """A sequence in the batch. Step numbers count the engine's steps."""

    part: Part
    joined: int
    finish: int
    due: float
    """Step at which the predicted answer would be whole."""
    late_before: Sequence[int]
    owes: bool = True
    is_gone: bool = False


@dataclass(slots=True, eq=False)
class FastDecode:
    """State at the end of step `step`, at `time_s`. `late`: late steps so far, for each target of `gaps.targets_s`."""

    replica: Replica
    lines: Lines
    counters: EngineCounters
    gaps: GapCounts
    time_s: float = 0.0
    widest: int | None = None
    """Tokens of a mixed step that the policy never goes above."""
    step: int = 0
    kv: int = 0
    """Computed tokens of all in the batch."""
    waiting: list[tuple[tuple[float, ...], int, Part]] = field(default_factory=list)
    batch: dict[Part, Seat] = field(default_factory=dict)
    late: list[int] = field(default_factory=list)
    prompts: Prompts = field(init=False)
    """That it computes itself, beside its decodes."""
    extra_s: float = 0.0
    """The next step lasts so much longer: something is computed again."""
    _finishes: list[tuple[int, int, Seat]] = field(default_factory=list)
    _owed: list[tuple[float, int, Seat]] = field(default_factory=list)
    _owed_sum: float = 0.0
    _owed_count: int = 0
    _serial: int = 0
    _fresh: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.late = [0] * len(self.gaps.targets_s)
        self.prompts = Prompts(self.replica, self.widest)

    # What routers and laws ask

    @property
    def kv_usage(self) -> float:
        return min(1.0, (self.kv + self.prompts.kv) / self.replica.kv_tokens)

    @property
    def is_idle(self) -> bool:
        return not self.batch and not self.prompts.parts

    def owed_tokens(self) -> float:
        """Predicted tokens that are still to come, of those in the batch and of those that wait."""
        while self._owed and self._owed[0][0] <= self.step:
            self._pay(heapq.heappop(self._owed)[2])
        waiting = sum(part.request.predicted_output for _, _, part in self.waiting)
        waiting += sum(part.request.predicted_output for part in self.prompts.parts)
        return max(0.0, self._owed_sum - self._owed_count * self.step) + waiting

    def _pay(self, seat: Seat) -> None:
        """It owes nothing more: it has got what was predicted, or it has left."""
        if seat.owes:
            seat.owes = False
            self._owed_sum -= seat.due
            self._owed_count -= 1

    # Time

    def seconds(self, steps: int) -> float:
        """Of the next so many steps; of one only while there are prompts."""
        n = len(self.batch)
        if self.prompts.parts:
            return self.extra_s + (self._mixed_s() if steps else 0.0)
        a, c = self.lines.of(n)
        return self.extra_s + steps * (a + c * (self.kv + n)) + c * n * steps * (steps - 1) / 2

    def steps_until(self, time_s: float, *, whole: bool) -> int:
        """Steps that have ended by then (`whole`), or that must end so that it is no earlier than then."""
        n = len(self.batch)
        left_s = time_s - self.time_s - self.extra_s
        if self.prompts.parts:
            return int(left_s >= self._mixed_s() - 1e-9) if whole else 1
        if not n or left_s <= 0:
            return 0 if whole or time_s <= self.time_s else 1
        a, c = self.lines.of(n)
        half, first = c * n / 2, a + c * (self.kv + n)
        b = first - half
        steps = left_s / b if half <= 0 else (math.sqrt(b * b + 4 * half * left_s) - b) / (2 * half)
        return math.floor(steps + 1e-9) if whole else max(1, math.ceil(steps - 1e-9))

    def next_stop(self) -> int | None:
        """Steps until one has its last token, or memory is full; one while there are prompts; None: it idles."""
        if self.prompts.parts:
            return 1
        if not self.batch:
            return None
        while self._finishes[0][2].is_gone:
            heapq.heappop(self._finishes)
        room = (self.replica.kv_tokens - self._held()) // len(self.batch)
        return max(1, min(self._finishes[0][0] - self.step, room))

    def advance(self, steps: int, time_s: float) -> None:
        """So many steps have ended, the last one at `time_s`."""
        if steps > 0:
            is_mixed = bool(self.prompts.parts)
            if is_mixed:
                self._count_mixed()
            else:
                self._count(steps)
            self.kv += steps * len(self.batch)
            self.step += steps
            self.extra_s = 0.0
            self._fresh = []
            for part in self.prompts.landed() if is_mixed else ():
                part.produced = 1
                self._sit(part)
        self.time_s = time_s

    def _mixed_s(self) -> float:
        return self.prompts.step(len(self.batch), self.kv + len(self.batch), self.gaps.tightest_s)[1]

    def _count_mixed(self) -> None:
        work, seconds = self.prompts.step(len(self.batch), self.kv + len(self.batch), self.gaps.tightest_s)
        self.counters.step(work, seconds + self.extra_s)
        self._count_gaps(1, seconds, 0.0)

    def _count(self, steps: int) -> None:
        n = len(self.batch)
        a, c = self.lines.of(n)
        first_s = a + c * (self.kv + n)
        add_run(self.counters.kinds[DECODE], n, self.kv, steps, a, c, self.extra_s)
        self._count_gaps(steps, first_s, c * n)

    def _count_gaps(self, steps: int, first_s: float, more_s: float) -> None:
        lates, first = self.gaps.add(steps, first_s, more_s, self.extra_s, self._fresh)
        for part in self._fresh:
            if not part.preemptions and part in self.batch:
                self.batch[part].late_before = [before + late for before, late in zip(self.late, first, strict=True)]
        self.late = [before + new for before, new in zip(self.late, lates, strict=True)]

    # Who is in it

    def add(self, part: Part, key: tuple[float, ...]) -> None:
        self._serial += 1
        heapq.heappush(self.waiting, (key, self._serial, part))

    def admit(self) -> list[Part]:
        """Those whom the next step serves first; prompts begin to be computed."""
        admitted = []
        while self.waiting and len(self.batch) + len(self.prompts.parts) < self.replica.limits.max_seqs:
            part = self.waiting[0][2]
            if (
                not self.is_idle
                and self._held() + part.known + self.replica.limits.block_tokens > self.replica.kv_tokens
            ):
                break
            heapq.heappop(self.waiting)
            if part.remaining > 1 and not part.preemptions:
                self.prompts.begin(part)
                continue
            self._seat(part)
            admitted.append(part)
        return admitted

    def _held(self) -> int:
        """With half a block unused in each sequence."""
        sequences = len(self.batch) + len(self.prompts.parts)
        return self.kv + self.prompts.kv + sequences * self.replica.limits.block_tokens // 2

    def _seat(self, part: Part) -> None:
        self._sit(part)
        self._fresh.append(part)
        if part.preemptions:
            self.extra_s += self.lines.prompt_s(part.known)

    def _sit(self, part: Part) -> None:
        self._serial += 1
        due = self.step + max(0.0, part.request.predicted_output - part.produced)
        finish = self.step + part.asked.output_tokens - part.produced
        seat = self.batch[part] = Seat(part, self.step, finish, due, self.late)
        heapq.heappush(self._finishes, (finish, self._serial, seat))
        heapq.heappush(self._owed, (due, self._serial, seat))
        self._owed_sum += due
        self._owed_count += 1
        self.kv += part.known - 1
        self.gaps.joined(part)

    def finished(self) -> list[Part]:
        """Those whose last token left with the step that has just ended."""
        found = []
        while self._finishes and (self._finishes[0][2].is_gone or self._finishes[0][0] <= self.step):
            seat = heapq.heappop(self._finishes)[2]
            if not seat.is_gone:
                self.take_out(seat.part)
                found.append(seat.part)
        return found

    def relieve(self) -> None:
        """Memory for one more step: the one that came last waits and is computed again."""
        while len(self.batch) > 1 and self._held() + len(self.batch) > self.replica.kv_tokens:
            part = next(reversed(self.batch))
            self.take_out(part)
            part.preemptions += 1
            self.add(part, (-1.0,))

    def lost(self, part: Part) -> None:
        """Its process is dead, or somebody took it back."""
        if part in self.batch:
            self.take_out(part)
        self.prompts.drop(part)

    def take_out(self, part: Part) -> None:
        seat = self.batch.pop(part)
        seat.is_gone = True
        self._pay(seat)
        self.kv -= part.known - 1 + self.step - seat.joined
        part.produced += self.step - seat.joined
        self.gaps.left(part)
        self._judge(part, seat)

    def _judge(self, part: Part, seat: Seat) -> None:
        """Gaps of this stay; waiting after a pre-emption is one more late one."""
        request = part.request
        at = self.gaps.targets_s.index(request.service_class.tbt.target_s)
        request.late_gaps += self.late[at] - seat.late_before[at] + (part.preemptions > 0)
        request.gaps = max(0, part.produced - 1)
        request.late_gaps = min(request.late_gaps, request.gaps)
