"""One engine, every step: the batches that vLLM 0.32 forms, under its own order or one of core/ordering.

A differential test feeds the same requests to the real scheduler class and compares batch for batch. What is modelled:
token budget, requests at once, KV blocks taken chunk by chunk, the check that a whole prompt fits, pre-emption of the
last running request with recomputation, decodes hidden behind prompts and served from what budget is left. What is not:
prefix cache, speculation, LoRA, KV connectors, async scheduling. No clock: every time is an argument.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmservice_core.latency import Work, batch_work
from llmservice_core.ordering import BatchMean, Decode, Mean, Policy, Prompt, Started
from llmservice_sim.jobs import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Token budget of a step, requests at once, KV blocks that requests can use and their size in tokens."""

    max_batched_tokens: int = 512
    max_seqs: int = 128
    kv_blocks: int
    block_tokens: int = 16


@dataclass(slots=True)
class Batch:
    """Tokens of each request in one step, in the order in which they were scheduled."""

    tokens: dict[Job, int] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
    hidden: int = 0


class Queue:
    """Waiting requests in the order of a policy, or first come first served without one."""

    def __init__(self, policy: Policy | None) -> None:
        self._policy = policy
        self._fifo: deque[Job] = deque()
        self._sorted: list[tuple[tuple[float, ...], int, Job]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._fifo) + len(self._sorted)

    def add(self, job: Job, *, in_front: bool = False) -> None:
        if self._policy is None:
            (self._fifo.appendleft if in_front else self._fifo.append)(job)
            return
        prompt = Prompt(tokens=job.known, arrival=job.asked.time_s, tbt_s=job.asked.tbt_s, was_running=job.produced > 0)
        self._count += 1
        insort(self._sorted, (self._policy.waiting_key(prompt), self._count, job), key=lambda row: row[:2])

    def peek(self) -> Job:
        return self._fifo[0] if self._policy is None else self._sorted[0][2]

    def pop(self) -> Job:
        return self._fifo.popleft() if self._policy is None else self._sorted.pop(0)[2]


class Engine:
    """`schedule`, then `land` when the step's time is over. `policy` None: vLLM's own order."""

    def __init__(self, limits: EngineLimits, policy: Policy | None) -> None:
        self.limits, self.policy = limits, policy
        self.free_blocks = limits.kv_blocks
        self.waiting = Queue(policy)
        self.running: list[Job] = []
        self.batch_mean: Mean = policy.batch_mean() if policy else BatchMean()
        self._later: list[Job] = []
        self._hidden: set[Job] = set()
        self._is_stuck = False

    @property
    def has_work(self) -> bool:
        return bool(self.running) or len(self.waiting) > 0

    @property
    def kv_usage(self) -> float:
        return 1.0 - self.free_blocks / self.limits.kv_blocks

    def add(self, job: Job) -> None:
        self.waiting.add(job)

    def schedule(self, now_s: float) -> Batch:
        batch = Batch()
        self._later, self._hidden = [], set()
        if self._may_hide():
            self._put_in_order(now_s)
        budget, preempted = self._serve_running(batch, self.limits.max_batched_tokens)
        if not preempted:
            self._admit(batch, budget)
        # Decodes hidden and yet nothing ran: the prompts are stuck, so the next step hides none.
        self._add_later(batch)
        batch.hidden = sum(job not in batch.tokens for job in self._later)
        self._is_stuck = bool(self._later) and not batch.tokens
        batch.work = batch_work((n, job.computed) for job, n in batch.tokens.items())
        for job, n in batch.tokens.items():
            job.computed += n
            job.is_prefill = job.computed < job.known
        return batch

    def _may_hide(self) -> bool:
        return self.policy is not None and not self._is_stuck and bool(self.running) and self._has_prefill_work()

    def _has_prefill_work(self) -> bool:
        admits = len(self.waiting) > 0 and len(self.running) < self.limits.max_seqs
        return admits or any(job.is_prefill for job in self.running)

    def _put_in_order(self, now_s: float) -> None:
        assert self.policy is not None
        jobs, decodes, started = self.running, [], []
        for i, job in enumerate(jobs):
            if job.is_prefill:
                started.append(Started(job.asked.time_s, i))
            else:
                decodes.append(Decode(job.latest_start_s, job.asked.time_s, i))
        order = self.policy.decide(now_s, decodes, started)
        self.running = [jobs[i] for i in (*order.critical, *order.later, *order.started)]
        self._later = [jobs[i] for i in order.later]
        self._hidden = set(self._later)

    def _serve_running(self, batch: Batch, budget: int) -> tuple[int, bool]:
        """Budget that is left, and whether somebody was pre-empted (then nobody is admitted)."""
        at, preempted = 0, False
        while at < len(self.running) and budget > 0:
            job = self.running[at]
            if job in self._hidden:
                at += 1
                continue
            n = min(job.known - job.computed, budget)
            while not self._take(job, n):
                victim = self.running.pop()
                self._preempt(victim)
                preempted = True
                if victim is job:
                    return budget, preempted
            batch.tokens[job] = n
            budget -= n
            at += 1
        return budget, preempted

    def _admit(self, batch: Batch, budget: int) -> None:
        while budget > 0 and len(self.waiting) and len(self.running) < self.limits.max_seqs:
            job = self.waiting.peek()
            n = min(job.known - job.computed, budget)  # a decode engine gets its prompt's KV computed
            if self._blocks(job.known) > self.free_blocks or not self._take(job, n):
                return
            self.waiting.pop()
            self.running.append(job)
            job.is_running = True
            batch.tokens[job] = n
            budget -= n

    def _add_later(self, batch: Batch) -> None:
        budget = self.limits.max_batched_tokens - sum(batch.tokens.values())
        for job in self._later:
            if budget <= 0:
                return
            if not job.is_running:
                continue
            if not self._take(job, 1):
                return  # never pre-empt anybody for a decode that can wait
            batch.tokens[job] = 1
            budget -= 1

    def _take(self, job: Job, tokens: int) -> bool:
        more = self._blocks(job.computed + tokens) - job.blocks
        if more > self.free_blocks:
            return False
        self.free_blocks -= more
        job.blocks += more
        return True

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_tokens)

    def _preempt(self, job: Job) -> None:
        self._free(job)
        job.computed, job.is_prefill, job.is_running = 0, True, False
        job.preemptions += 1
        self.waiting.add(job, in_front=True)

    def _free(self, job: Job) -> None:
        self.free_blocks += job.blocks
        job.blocks = 0

    def land(self, batch: Batch, now_s: float, seconds: float) -> list[Job]:
        """The step has ended: tokens leave, deadlines are set. The requests that are done."""
        self.batch_mean.add(seconds, has_prefill=batch.work.chunks > 0)
        usage, batch_s = self.kv_usage, self.batch_mean.seconds
        served = [job for job in batch.tokens if not job.is_prefill]
        for job in served:
            job.token(now_s)
            if self.policy is not None:
                job.latest_start_s = self.policy.latest_start(
                    served_s=now_s, tbt_s=job.asked.tbt_s, batch_s=batch_s, kv_usage=usage
                )
        done = [job for job in served if job.is_done]
        if done:
            self._leave(done)
        return done

    def _leave(self, done: Sequence[Job]) -> None:
        gone = set(done)
        self.running = [job for job in self.running if job not in gone]
        for job in done:
            job.is_running = False
            self._free(job)
