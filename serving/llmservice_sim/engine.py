"""One engine, every step: the batches that vLLM 0.32 forms, under its own order or one of the core's policies.

A differential test feeds the same requests to the real scheduler class and compares batch for batch. What is modelled:
token budget, requests at once, KV blocks taken chunk by chunk, the check that a whole prompt fits, pre-emption of the
last running request with recomputation, decodes and started prompts held back by a plan. What is not: prefix cache,
speculation, LoRA, async scheduling. No clock: every time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmservice_core.latency import Work, batch_work
from llmservice_core.steps import Policy, StepPlan, StepTime, Task, View, backlog_of
from llmservice_core.token_budget import step_budget
from llmservice_sim.jobs import Job

Auto = Literal["auto"]


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


class Engine:
    """`schedule`, then `land` when the step's time is over. `policy` None: vLLM's own order. `step_time`: what this
    engine believes of its steps. `token_budget` None: always all that the limits allow."""

    def __init__(
        self,
        limits: EngineLimits,
        policy: Policy | None,
        step_time: StepTime | None = None,
        token_budget: int | Auto | None = None,
        tile_tokens: int = 128,
    ) -> None:
        self.limits, self.policy, self.step_time, self.token_budget = limits, policy, step_time, token_budget
        self.tile_tokens = tile_tokens
        self.free_blocks = limits.kv_blocks
        self.fifo: deque[Job] = deque()
        self.waiting: Any = backlog_of(policy) if policy else None
        self.remote: Any = backlog_of(policy) if policy else None
        self.running: list[Job] = []
        self.plan: StepPlan | None = None
        self._is_stuck = False
        self._last_s = 0.0
        self._count = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running) or self.waits > 0

    @property
    def waits(self) -> int:
        """Requests that wait for admission."""
        return len(self.fifo) + (len(self.waiting) + len(self.remote) if self.policy else 0)

    @property
    def kv_usage(self) -> float:
        return 1.0 - self.free_blocks / self.limits.kv_blocks

    def add(self, job: Job) -> None:
        self._count += 1
        job.serial = self._count
        if self.policy is None:
            self.fifo.append(job)
            return
        self.policy.joined(job)
        (self.remote if job.is_remote else self.waiting).add(job)

    def schedule(self, now_s: float) -> Batch:
        batch = Batch()
        plan = self.plan = self._decide(now_s)
        if plan is None:
            budget, preempted = self._serve(batch, self.running, self.limits.max_batched_tokens)
            self._admit_open(batch, 0 if preempted else budget)
        else:
            self._carry_out(batch, plan)
        self._is_stuck = plan is not None and not batch.tokens
        batch.work = batch_work(list(batch.tokens.values()), [job.computed for job in batch.tokens])
        for job, n in batch.tokens.items():
            job.computed += n
            job.is_prefill = job.computed < job.known
        return batch

    # What to do

    def _decide(self, now_s: float) -> StepPlan | None:
        """None: vLLM's own loop does the right thing, because nothing is to be held back."""
        if self.policy is None or self._is_stuck:
            return None
        self.waiting.advance(now_s)
        decodes = [job for job in self.running if not job.is_prefill]
        started = [job for job in self.running if job.is_prefill]
        admits = len(self.waiting) > 0 and len(self.running) < self.limits.max_seqs
        if not started and not admits and not self._plans_decodes(decodes):
            return None
        view = View(
            now_s=now_s,
            decodes=decodes,
            started=started,
            waiting=self.waiting,
            free_tokens=self.free_blocks * self.limits.block_tokens,
            total_tokens=self.limits.kv_blocks * self.limits.block_tokens,
            seats=self.limits.max_seqs - len(self.running),
            budget_tokens=self._budget(decodes, started),
            step_s=self.step_time,
        )
        return self.policy.plan(view)

    def _plans_decodes(self, decodes: Sequence[Job]) -> bool:
        assert self.policy is not None
        tightest_s = min((d.tbt_s for d in decodes if d.tbt_s is not None), default=None)
        return bool(decodes) and self.policy.wants_pure_decode(self._last_s, tightest_s)

    def _budget(self, decodes: Sequence[Task], started: Sequence[Task]) -> int:
        assert self.policy is not None
        most, wanted, step_s = self.limits.max_batched_tokens, self.token_budget, self.step_time
        fixed = None if wanted == "auto" else wanted or most
        tile = self.tile_tokens
        return step_budget(self.policy, decodes, started, fixed=fixed, step_s=step_s, most=most, tile=tile)

    # Doing it

    def _carry_out(self, batch: Batch, plan: StepPlan) -> None:
        """As in vLLM: the decodes and, if the queue is open, started prompts; then admissions; then the rest."""
        serve, later, waits = _jobs(plan.serve), _jobs(plan.later), _jobs(plan.waits)
        chunks = [(_job(task), n) for task, n in plan.chunks]
        going_on = [(job, n) for job, n in chunks if job.is_started]
        named = {job for job, _ in going_on}
        started = [*(job for job, _ in going_on), *(j for j in self.running if j.is_prefill and j not in named)]
        if not plan.is_open:
            started = [job for job in self.running if job.is_prefill]
        self.running = [*serve, *later, *waits, *started]  # the tail is the victim
        new = [(job, n) for job, n in chunks if not job.is_started]
        budget = plan.budget_tokens
        _, preempted = self._serve(batch, [*serve, *started] if plan.is_open else serve, budget)
        if not preempted:
            # A plan does not count with them: each costs one token.
            arrived = min(len(self.remote), self.limits.max_batched_tokens - sum(batch.tokens.values()))
            budget += arrived - self._admit(batch, self.remote, arrived)
            for job, n in new:
                if not self._start(batch, self.waiting, job, n):
                    break
            if plan.is_open:
                self._admit(batch, self.waiting, budget - sum(batch.tokens.values()))
        self._add_later(batch, [*(() if plan.is_open else going_on), *((job, 1) for job in later)], budget)
        batch.hidden = sum(job not in batch.tokens for job in (*later, *waits))

    def _serve(self, batch: Batch, jobs: Iterable[Job], budget: int) -> tuple[int, bool]:
        """Budget that is left, and whether somebody was pre-empted (then nobody is admitted)."""
        preempted = False
        for job in list(jobs):
            if budget <= 0:
                break
            if not job.is_started:
                continue
            n = min(job.remaining, budget)
            while job.is_started and not self._take(job, n):
                self._preempt(self.running.pop())
                preempted = True
            if not job.is_started:
                return budget, True
            batch.tokens[job] = n
            budget -= n
        return budget, preempted

    def _admit_open(self, batch: Batch, budget: int) -> None:
        if self.policy is None:
            while budget > 0 and self.fifo and len(self.running) < self.limits.max_seqs:
                n = min(self.fifo[0].remaining, budget)
                if not self._fits(self.fifo[0], n):
                    return
                self._begin(batch, self.fifo.popleft(), n)
                budget -= n
            return
        budget = self._admit(batch, self.remote, budget)
        self._admit(batch, self.waiting, budget)

    def _admit(self, batch: Batch, queue: Any, budget: int) -> int:
        """In the queue's order until something does not fit; budget that is left."""
        while budget > 0 and len(queue):
            (job,) = queue.first(1)
            n = min(job.remaining, budget)
            if not self._start(batch, queue, job, n):
                break
            budget -= n
        return budget

    def _start(self, batch: Batch, queue: Any, job: Job, tokens: int) -> bool:
        if len(self.running) >= self.limits.max_seqs or not self._fits(job, tokens):
            return False
        queue.remove(job)
        queue.settled(job)
        if self.policy is not None and not job.preemptions:
            self.policy.admitted(job)
        self._begin(batch, job, tokens)
        return True

    def _fits(self, job: Job, tokens: int) -> bool:
        return self._blocks(job.known) <= self.free_blocks and self._take(job, tokens)

    def _begin(self, batch: Batch, job: Job, tokens: int) -> None:
        self.running.append(job)
        job.is_started = True
        batch.tokens[job] = tokens

    def _add_later(self, batch: Batch, jobs: Iterable[tuple[Job, int]], budget: int) -> None:
        left = budget - sum(batch.tokens.values())
        for job, most in jobs:
            n = min(most, left)
            if n <= 0 or not job.is_started:
                continue
            if not self._take(job, n):
                return  # never pre-empt anybody for what can wait
            batch.tokens[job] = n
            left -= n

    # Blocks

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
        job.computed, job.is_started, job.is_prefill, job.is_remote = 0, False, True, False
        job.preemptions += 1
        if self.policy is None:
            self.fifo.appendleft(job)
        else:
            self.waiting.add(job)

    def _free(self, job: Job) -> None:
        self.free_blocks += job.blocks
        job.blocks = 0

    # Afterwards

    def land(self, batch: Batch, now_s: float, seconds: float) -> list[Job]:
        """The step has ended: tokens leave, deadlines are set. The requests that are done."""
        self._last_s = seconds
        usage, policy = self.kv_usage, self.policy
        if policy is not None:
            policy.stepped(batch.work, seconds, self.step_time(batch.work) if self.step_time else None)
        served = [job for job in batch.tokens if not job.is_prefill]
        for job in served:
            job.token(now_s)
        if policy is not None:
            policy.served(served, now_s=now_s, kv_usage=usage)
        done = [job for job in served if job.is_done]
        if done:
            self._leave(done)
        return done

    def _leave(self, done: Sequence[Job]) -> None:
        gone = set(done)
        self.running = [job for job in self.running if job not in gone]
        for job in done:
            job.is_started = False
            self._free(job)
            if self.policy is not None:
                self.policy.left(job, is_complete=True)


def _job(task: Task) -> Job:
    assert isinstance(task, Job)
    return task


def _jobs(tasks: Iterable[Task]) -> list[Job]:
    return [_job(task) for task in tasks]
