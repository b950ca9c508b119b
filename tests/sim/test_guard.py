"""The promise about waiting, in the paper's setting at 120 % of what the card can serve, for ten minutes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.engine.setting import PAPER, order
from llmservice_core.bulk import Bulk
from llmservice_sim.jobs import Arrival, Job
from llmservice_sim.run import run

SATURATED_RPS = 1.83
MINUTES = 10


def waits_s(policy: str, rows: list[Arrival]) -> list[float]:
    """To the first token of every request; nobody is left out."""
    jobs: list[Job] = list(run(rows, order(policy).engine(PAPER.card), PAPER.card.clock(0)).jobs)
    return sorted(job.ttft_seen_s for job in jobs if job.ttft_seen_s is not None)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_wait_is_longer_than_the_guard_and_the_wait_that_first_come_order_has(seed: int) -> None:
    rate = 1.2 * SATURATED_RPS
    rows = replace(PAPER, requests=round(rate * 60 * MINUTES)).trace(rate, seed)
    plain, plus, published = (waits_s(policy, rows) for policy in ("fcfs", "slai-plus", "slai-published"))
    assert len(plus) == len(rows)
    assert plus[-1] <= plain[-1] + Bulk().guard_s
    assert published[-1] > plain[-1] + Bulk().guard_s, "no promise would be needed: proves nothing"
    assert plus[len(plus) // 2] < 0.1 * plain[len(plain) // 2]
