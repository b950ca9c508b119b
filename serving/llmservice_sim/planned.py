"""The engine under slai-plus, whose core decides every token of a step (core/bulk.py). Blocks as in `engine`."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from llmservice_core.bulk import Bulk, Pace, Running, StepPlan, StepTime, View, Waiting
from llmservice_core.latency import batch_work
from llmservice_sim.engine import Batch, Engine, EngineLimits
from llmservice_sim.jobs import Job


class PlannedEngine(Engine):
    """`step_time` is what the engine believes; what steps really take, it learns."""

    def __init__(
        self,
        limits: EngineLimits,
        policy: Bulk,
        step_time: StepTime,
        *,
        guard_s: float = 60.0,
        short_tokens: int = 2500,
    ) -> None:
        super().__init__(limits, None)
        self.bulk, self.step_time = policy, step_time
        self.guard_s, self.short_tokens = guard_s, short_tokens
        self.pace = Pace()
        self.plan: StepPlan | None = None
        self._jobs: dict[int, Job] = {}
        self._count = 0
        self._queue: list[tuple[tuple[float, float, float], int]] = []
        self._waiting: dict[int, None] = {}
        """In the order in which they came, or came back."""
        self._places: dict[Job, int] = {}

    @property
    def has_work(self) -> bool:
        return bool(self.running) or bool(self._waiting)

    def add(self, job: Job) -> None:
        self._count += 1
        self._jobs[self._count], self._places[job] = job, self._count
        self._enqueue(self._count)

    def _enqueue(self, place: int) -> None:
        self._waiting[place] = None
        insort(self._queue, (self._prompt(place).key, place))

    def _prompt(self, place: int) -> Waiting:
        job = self._jobs[place]
        tbt_s = 0.0 if job.produced else job.asked.tbt_s  # its client watches a stream: before all others
        return Waiting(job.known, job.computed, job.asked.time_s, tbt_s, place, job.is_running)

    def schedule(self, now_s: float) -> Batch:
        plan = self.plan = self.bulk.plan(self._view(now_s))
        chosen = set(plan.decodes)
        decodes = [job for job in self.running if not job.is_prefill]
        rest = [job for job in decodes if self._places[job] not in chosen]
        started = [job for job in self.running if job.is_prefill]
        serve = [self._jobs[place] for place in plan.decodes]
        self.running = [*serve, *rest, *started]  # the tail is the victim
        batch = Batch()
        if sum(self._serve(batch, job) for job in serve) == 0:
            self._admit_planned(batch, [(p, n) for p, n in plan.chunks if not p.is_started])
        self._go_on(batch, [(self._jobs[p.place], n) for p, n in plan.chunks if p.is_started])
        batch.hidden = sum(job not in batch.tokens for job in rest)
        batch.work = batch_work((n, job.computed) for job, n in batch.tokens.items())
        for job, n in batch.tokens.items():
            job.computed += n
            job.is_prefill = job.computed < job.known
        return batch

    def _view(self, now_s: float) -> View:
        decodes, started = [], []
        for job in self.running:
            if job.is_prefill:
                started.append(self._prompt(self._places[job]))
            else:
                assert job.last_token_s is not None
                decodes.append(Running(job.last_token_s, job.asked.tbt_s, job.known, self._places[job]))
        promised = sum(p.remaining for p in started)
        return View(
            now_s=now_s,
            decodes=decodes,
            started=started,
            waiting=self._candidates(),
            overdue=self._overdue(now_s),
            short_tokens=self.short_tokens,
            free_tokens=max(0, self.free_blocks * self.limits.block_tokens - promised),
            total_tokens=self.limits.kv_blocks * self.limits.block_tokens,
            seats=self.limits.max_seqs - len(self.running),
            budget_tokens=self.limits.max_batched_tokens,
            step_s=lambda w: self.pace.ratio * self.step_time(w),
        )

    def _candidates(self) -> list[Waiting]:
        """The first in order, and the oldest wherever it stands."""
        places = [place for _, place in self._queue[: self.bulk.most_candidates]]
        oldest = next(iter(self._waiting), None)
        if oldest is not None and oldest not in places:
            places.append(oldest)
        return [self._prompt(place) for place in places]

    def _overdue(self, now_s: float) -> Waiting | None:
        place = next(iter(self._waiting), None)
        if place is None:
            return None
        oldest = self._prompt(place)
        return oldest if now_s - oldest.arrival_s > self.guard_s and oldest.tokens > self.short_tokens else None

    def _serve(self, batch: Batch, job: Job) -> int:
        """A decode's token; how many had to leave for it."""
        left = 0
        while job.is_running and not self._take(job, 1):
            self._preempt(self.running.pop())
            left += 1
        if job.is_running:
            batch.tokens[job] = 1
        return left

    def _admit_planned(self, batch: Batch, chunks: Sequence[tuple[Waiting, int]]) -> None:
        for prompt, tokens in chunks:
            job = self._jobs[prompt.place]
            if self._blocks(job.known) > self.free_blocks or not self._take(job, tokens):
                return
            del self._waiting[prompt.place]
            self._queue.remove((prompt.key, prompt.place))
            self.running.append(job)
            job.is_running = True
            batch.tokens[job] = tokens

    def _go_on(self, batch: Batch, chunks: Sequence[tuple[Job, int]]) -> None:
        for job, tokens in chunks:
            if not job.is_running:
                continue
            if not self._take(job, tokens):
                return
            batch.tokens[job] = tokens

    def _preempt(self, job: Job) -> None:
        self._free(job)
        job.computed, job.is_prefill, job.is_running = 0, True, False
        job.preemptions += 1
        self._enqueue(self._places[job])

    def land(self, batch: Batch, now_s: float, seconds: float) -> list[Job]:
        self.pace = self.pace.learn(self.step_time(batch.work), seconds)
        return super().land(batch, now_s, seconds)

    def _leave(self, done: Sequence[Job]) -> None:
        super()._leave(done)
        for job in done:
            del self._jobs[self._places.pop(job)]
