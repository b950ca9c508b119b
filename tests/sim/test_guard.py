"""The promise about waiting, in the paper's setting at 120 % of what the card can serve, for ten minutes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.engine.paper import LIMITS, MODEL, trace
from llmservice_core.bulk import Bulk
from llmservice_core.policies import make_policy
from llmservice_core.step_models import step_model
from llmservice_sim.engine import Engine
from llmservice_sim.jobs import Arrival, Job
from llmservice_sim.run import run

SATURATED_RPS = 1.83
MINUTES = 10


def waits_s(order: str, rows: list[Arrival]) -> list[float]:
    """To the first token of every request; nobody is left out."""
    limits = replace(LIMITS, max_batched_tokens=Bulk().widest) if order == "slai-plus" else LIMITS
    times = step_model(MODEL).work_s
    jobs: list[Job] = list(run(rows, Engine(limits, make_policy(order), times), times).jobs)
    return sorted(job.ttft_seen_s for job in jobs if job.ttft_seen_s is not None)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_wait_is_longer_than_the_guard_and_the_wait_that_first_come_order_has(seed: int) -> None:
    rate = 1.2 * SATURATED_RPS
    rows = trace(rate, round(rate * 60 * MINUTES), seed)
    plain, plus, published = (waits_s(order, rows) for order in ("fcfs", "slai-plus", "slai-published"))
    assert len(plus) == len(rows)
    assert plus[-1] <= plain[-1] + Bulk().guard_s
    assert published[-1] > plain[-1] + Bulk().guard_s, "no promise would be needed: proves nothing"
    assert plus[len(plus) // 2] < 0.1 * plain[len(plain) // 2]
