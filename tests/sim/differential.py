"""Runs inside the engine environment: vLLM's scheduler class and the simulated engine, the same requests, one virtual
clock. Prints for each run how many batches, pre-emptions and hidden decodes there were, and the first different batch.

python differential.py POLICY,KV_BLOCKS,RATE ...          POLICY: stock (vLLM's own class) or one of ours
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request

from llmservice_core.latency import batch_work
from llmservice_core.policies import make_policy
from llmservice_core.step_models import step_model
from llmservice_serving import engine_queue, engine_seats, engine_steps, vllm_scheduler
from llmservice_sim.engine import Engine, EngineLimits
from llmservice_sim.jobs import Arrival, job_of

MODEL = step_model("rtx4090-mistral-7b")
SEQS, REQUESTS = 24, 400
SCALE = 8
"""Widths of slai-plus shrink by this, so that the engine's 128 tokens per step are several tiles."""
TILE = 128 // SCALE
Batch = dict[int, int]


def drive_module() -> Any:
    path = Path(__file__).parents[1] / "serving" / "engine_drive.py"
    spec = importlib.util.spec_from_file_location("engine_drive", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DRIVE = drive_module()


class Clock:
    """Stands in for the time module of our scheduler files."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def believe(s: Any, policy: str) -> None:
    """Step times are known from the first step on, and the policy's widths suit the small engine."""
    s.driver.policy = s._seats.policy = make_policy(policy, scale=SCALE)
    s.waiting = engine_queue.PromptQueue(s.driver.policy, s._seats.of)
    s._seats.settled = s.waiting.settled
    s.driver.times._paced = MODEL.work_s
    s.driver._tile_tokens = TILE


def trace(rate: float) -> list[Arrival]:
    """Poisson arrivals, every fifth strict, every seventh without a target."""
    rng, now_s, rows = random.Random(7), 0.0, []
    for i in range(REQUESTS):
        now_s += rng.expovariate(rate)
        tbt_s = None if i % 7 == 3 else 0.1 if i % 5 == 0 else 0.5
        ttft_s = (None, 1.0, 20.0)[i % 3]
        prompt, output = rng.randint(5, 1200), rng.randint(2, 300)
        rows.append(
            Arrival(
                time_s=now_s, prompt_tokens=prompt, output_tokens=output, tbt_s=tbt_s, ttft_s=ttft_s, tenant=f"t{i % 4}"
            )
        )
    return rows


def real(policy: str, blocks: int, rows: list[Arrival]) -> tuple[list[Batch], int]:
    """Batches of vLLM's scheduler, by the number of the request."""
    os.environ["LLMSERVICE_POLICY"] = "fcfs" if policy == "stock" else policy
    clock = Clock()
    for module in (engine_seats, engine_steps, vllm_scheduler):
        virtual = SimpleNamespace(monotonic=clock.monotonic, time=clock.monotonic, sleep=clock.sleep)
        module.time = virtual  # type: ignore[attr-defined]
    which = "stock" if policy == "stock" else "ours"
    s = DRIVE.scheduler(which, is_async=False, blocks=blocks, seqs=SEQS)
    if s.__class__.__name__ == "SLAI" and s.driver is not None:
        believe(s, policy)
    requests = {str(i): request(i, row) for i, row in enumerate(rows)}
    waiting, batches = deque(requests.values()), []
    while waiting or s.has_unfinished_requests():
        if not s.has_unfinished_requests():
            clock.now_s = max(clock.now_s, waiting[0].arrival_time)
        while waiting and waiting[0].arrival_time <= clock.now_s:
            s.add_request(waiting.popleft())
        before = {i: r.num_computed_tokens for i, r in requests.items()}
        output = s.schedule()
        output.samples = {i: not requests[i].is_prefill_chunk for i in output.num_scheduled_tokens}
        tokens = output.num_scheduled_tokens
        if tokens:
            batches.append({int(i): n for i, n in tokens.items()})
            clock.now_s += MODEL.work_s(
                batch_work(list(tokens.values()), [started(before[i], requests[i], n) for i, n in tokens.items()])
            )
        s.update_from_output(output, DRIVE.result(output, requests))
    return batches, sum(r.num_preemptions for r in requests.values())


def started(before: int, r: Request, n: int) -> int:
    """Tokens computed before the step; a request that was pre-empted in this very call started again from nothing."""
    return before if before + n <= r.num_computed_tokens else r.num_computed_tokens - n


def request(number: int, row: Arrival) -> Request:
    known = {"class": "default", "tenant": row.tenant, "tbt_s": row.tbt_s, "ttft_s": row.ttft_s}
    extra = {key: value for key, value in known.items() if value is not None}
    params = SamplingParams(max_tokens=row.output_tokens, ignore_eos=True, extra_args=extra)
    params.update_from_generation_config({}, eos_token_id=2)
    return Request(
        request_id=str(number),
        prompt_token_ids=[5] * row.prompt_tokens,
        sampling_params=params,
        pooling_params=None,
        arrival_time=row.time_s,
    )


def simulated(policy: str, blocks: int, rows: list[Arrival]) -> tuple[list[Batch], int, int]:
    """vLLM keeps one block for itself."""
    limits = EngineLimits(
        max_batched_tokens=DRIVE.BUDGET, max_seqs=SEQS, kv_blocks=blocks - 1, block_tokens=DRIVE.BLOCK
    )
    ours = None if policy in ("stock", "fcfs") else make_policy(policy, scale=SCALE)
    engine = Engine(limits, ours, MODEL.work_s, token_budget="auto", tile_tokens=TILE)
    jobs = [job_of(row) for row in rows]
    numbers = {job: i for i, job in enumerate(jobs)}
    now_s, waiting, batches, hidden = 0.0, deque(jobs), [], 0
    while waiting or engine.has_work:
        if not engine.has_work:
            now_s = max(now_s, waiting[0].asked.time_s)
        while waiting and waiting[0].asked.time_s <= now_s:
            engine.add(waiting.popleft())
        batch = engine.schedule(now_s)
        if batch.tokens:
            batches.append({numbers[job]: n for job, n in batch.tokens.items()})
            seconds = MODEL.work_s(batch.work)
            now_s += seconds
            engine.land(batch, now_s, seconds)
            hidden += batch.hidden
    return batches, sum(job.preemptions for job in jobs), hidden


def compare(policy: str, blocks: int, rate: float) -> dict[str, Any]:
    rows = trace(rate)
    theirs, their_preemptions = real(policy, blocks, rows)
    ours, our_preemptions, hidden = simulated(policy, blocks, rows)
    differing = (i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1])
    first = next(differing, None)
    return {
        "batches": [len(theirs), len(ours)],
        "preemptions": [their_preemptions, our_preemptions],
        "hidden": hidden,
        "first_difference": None if first is None else [first, theirs[first], ours[first]],
    }


def main(runs: list[str]) -> list[dict[str, Any]]:
    parts = [run.split(",") for run in runs]
    return [compare(policy, int(blocks), float(rate)) for policy, blocks, rate in parts]


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
