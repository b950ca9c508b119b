"""The engine under slai-plus, whose core decides every token of a step (core/bulk.py). Blocks as in `engine`."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator

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
        self._by_arrival: deque[int] = deque()
        self._waiting: set[int] = set()
        self._places: dict[Job, int] = {}

    @property
    def has_work(self) -> bool:
        return bool(self.running) or bool(self._waiting)

    def add(self, job: Job) -> None:
        self._count += 1
        self._jobs[self._count], self._places[job] = job, self._count
        self._enqueue(self._count)
        self._by_arrival.append(self._count)

    def _enqueue(self, place: int) -> None:
        self._waiting.add(place)
        insort(self._queue, (self._prompt(place).key, place))

    def _prompt(self, place: int) -> Waiting:
        job = self._jobs[place]
        return Waiting(job.known, job.computed, job.asked.time_s, job.asked.tbt_s, place, job.is_running)

    def schedule(self, now_s: float) -> Batch:
        view = self._view(now_s)
        plan = self.plan = self.bulk.plan(view)
        batch = Batch()
        for place in plan.decodes:
            self._serve(batch, self._jobs[place], 1)
        for prompt, tokens in plan.chunks:
            self._chunk(batch, prompt, tokens)
        decodes = sum(not job.is_prefill for job in self.running)
        batch.work = batch_work((n, job.computed) for job, n in batch.tokens.items())
        batch.hidden = decodes - sum(not job.is_prefill for job in batch.tokens)
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
            waiting=self._in_order(),
            overdue=self._overdue(now_s),
            short_tokens=self.short_tokens,
            free_tokens=max(0, self.free_blocks * self.limits.block_tokens - promised),
            total_tokens=self.limits.kv_blocks * self.limits.block_tokens,
            seats=self.limits.max_seqs - len(self.running),
            budget_tokens=self.limits.max_batched_tokens,
            step_s=lambda w: self.pace.ratio * self.step_time(w),
        )

    def _in_order(self) -> Iterator[Waiting]:
        return (self._prompt(place) for _, place in list(self._queue[: self.bulk.most_candidates]))

    def _overdue(self, now_s: float) -> Waiting | None:
        while self._by_arrival and self._by_arrival[0] not in self._waiting:
            self._by_arrival.popleft()
        if not self._by_arrival:
            return None
        oldest = self._prompt(self._by_arrival[0])
        return oldest if now_s - oldest.arrival_s > self.guard_s and oldest.tokens > self.short_tokens else None

    def _chunk(self, batch: Batch, prompt: Waiting, tokens: int) -> None:
        job = self._jobs[prompt.place]
        if job.is_running:
            if self._take(job, tokens):
                batch.tokens[job] = tokens
            return
        if prompt.is_started or not self._take(job, tokens):
            return  # it was pre-empted by a decode of this very step, or does not fit any more
        self._waiting.discard(prompt.place)
        self._queue.remove((prompt.key, prompt.place))
        self.running.append(job)
        job.is_running = True
        batch.tokens[job] = tokens

    def _serve(self, batch: Batch, job: Job, tokens: int) -> None:
        """The newest started prompt makes room, and without one the decode itself leaves."""
        while job.is_running and not self._take(job, tokens):
            victim = next((j for j in reversed(self.running) if j.is_prefill), job)
            self.running.remove(victim)
            self._preempt(victim)
        if job.is_running:
            batch.tokens[job] = tokens

    def _preempt(self, job: Job) -> None:
        self._free(job)
        job.computed, job.is_prefill, job.is_running = 0, True, False
        job.preemptions += 1
        place = self._places[job]
        self._enqueue(place)
        self._by_arrival.appendleft(place)

    def land(self, batch: Batch, now_s: float, seconds: float) -> list[Job]:
        self.pace = self.pace.learn(self.step_time(batch.work), seconds)
        return super().land(batch, now_s, seconds)

    def _leave(self, done: list[Job]) -> None:  # type: ignore[override]
        super()._leave(done)
        for job in done:
            del self._jobs[self._places.pop(job)]
