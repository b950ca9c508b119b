"""What the order does in a prefill pool and in a decode pool, where no engine mixes both."""

from __future__ import annotations

import random
from collections.abc import Sequence

from llmservice_core.policies import make_policy
from llmservice_core.step_models import step_model
from llmservice_sim.engine import Engine, EngineLimits
from llmservice_sim.jobs import Arrival, Job, job_of
from llmservice_sim.summary import figures

STEP = step_model("rtx4090-mistral-7b").work_s
LIMITS = EngineLimits(max_batched_tokens=768, max_seqs=256, kv_blocks=40_000)


def serve(policy: str, jobs: Sequence[Job]) -> Sequence[Job]:
    engine = Engine(LIMITS, make_policy(policy), STEP)
    now_s, at = 0.0, 0
    while at < len(jobs) or engine.has_work:
        if not engine.has_work:
            now_s = max(now_s, jobs[at].arrival_s)
        while at < len(jobs) and jobs[at].arrival_s <= now_s:
            engine.add(jobs[at])
            at += 1
        batch = engine.schedule(now_s)
        if batch.tokens:
            seconds = STEP(batch.work)
            now_s += seconds
            engine.land(batch, now_s, seconds)
    return jobs


def decodes(strict: int, relaxed: int) -> list[Job]:
    """Their prompts' KV is there: each costs one token to begin, as behind a transfer."""
    rows = [(0.06, i) for i in range(strict)] + [(0.5, i) for i in range(relaxed)]
    return [decode_at(i * 0.005, tbt_s=tbt_s, n=n) for i, (tbt_s, n) in enumerate(rows)]


def decode_at(arrival_s: float, *, tbt_s: float, n: int) -> Job:
    job = job_of(Arrival(time_s=arrival_s, prompt_tokens=1500 + 5 * n, output_tokens=120, tbt_s=tbt_s))
    job.computed, job.is_remote = job.prompt_tokens - 1, True
    return job


def tbt_p99_s(jobs: Sequence[Job], tbt_s: float) -> float:
    found = figures(job for job in jobs if job.tbt_s == tbt_s).tbt_p99_s
    assert found is not None
    return found


def test_a_decode_pool_holds_more_than_its_strictest_user_would_allow() -> None:
    """A step of all 200 lasts longer than 60 ms."""
    stock, plus = serve("fcfs", decodes(20, 180)), serve("slai-plus", decodes(20, 180))
    assert tbt_p99_s(stock, 0.06) > 0.07
    assert tbt_p99_s(plus, 0.06) <= 0.06
    assert tbt_p99_s(plus, 0.5) <= 0.5


def test_a_decode_pool_that_is_fast_enough_is_left_alone() -> None:
    stock, plus = serve("fcfs", decodes(10, 40)), serve("slai-plus", decodes(10, 40))
    assert [j.gaps_s for j in stock] == [j.gaps_s for j in plus]


def test_a_full_decode_pool_still_takes_in_those_whose_kv_is_there() -> None:
    """A step of all is too slow for the strict, so each is planned; a new request still gets its first token soon."""
    rng, now_s, jobs = random.Random(3), 0.0, decodes(20, 160)
    while now_s < 4.0:
        now_s += rng.expovariate(20)
        jobs.append(decode_at(1.0 + now_s, tbt_s=0.5, n=0))
    serve("slai-plus", sorted(jobs, key=lambda job: job.arrival_s))
    new = [job for job in jobs if job.arrival_s >= 1.0]
    assert len(new) > 50
    assert max(job.ttft_seen_s or 0.0 for job in new) < 0.3


def prompts(seed: int = 4) -> list[Job]:
    """High load for two minutes: short interactive prompts with a second of patience, long batch ones with a minute."""
    rng, now_s, jobs = random.Random(seed), 0.0, []
    while now_s < 120:
        now_s += rng.expovariate(4.6)
        is_short = rng.random() < 0.6
        tokens = rng.randint(100, 900) if is_short else rng.randint(2500, 6000)
        ttft_s, tbt_s = (1.0, 0.1) if is_short else (60.0, 0.5)
        jobs.append(job_of(Arrival(time_s=now_s, prompt_tokens=tokens, output_tokens=1, tbt_s=tbt_s, ttft_s=ttft_s)))
    return jobs


def share_in_time(jobs: Sequence[Job], ttft_s: float) -> float:
    of_class = [job for job in jobs if job.ttft_s == ttft_s]
    return sum((job.ttft_seen_s or 0.0) <= ttft_s for job in of_class) / len(of_class)


def test_a_prefill_pool_keeps_the_strict_class_in_time_and_the_patient_one_as_well() -> None:
    stock, plus = serve("fcfs", prompts()), serve("slai-plus", prompts())
    assert share_in_time(stock, 1.0) < 0.6
    assert share_in_time(plus, 1.0) > 0.97
    assert share_in_time(plus, 60.0) > 0.95
