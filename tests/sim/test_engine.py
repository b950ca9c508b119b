"""Laws of the simulated engine, and what it does when something cannot work."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.latency import Work
from llmservice_core.policies import NAMES, make_policy
from llmservice_sim.engine import Engine, EngineLimits
from llmservice_sim.jobs import Arrival
from llmservice_sim.run import Result, StuckError, run
from llmservice_sim.summary import figures, percentile

WIDTHS = {"slai-plus": {"narrowest": 16, "widest": 128, "tile": 16}, "rad": {"tile": 32, "width": 6}}
arrivals = st.builds(
    Arrival,
    time_s=st.floats(0, 5),
    prompt_tokens=st.integers(1, 200),
    output_tokens=st.integers(1, 40),
    tbt_s=st.sampled_from([None, 0.05, 0.5]),
    ttft_s=st.sampled_from([None, 0.1, 2.0]),
    tenant=st.sampled_from(["", "a", "b"]),
)
traces = st.lists(arrivals, min_size=1, max_size=25).map(lambda rows: sorted(rows, key=lambda a: a.time_s))


def step_s(work: Work) -> float:
    return 0.005 + 1e-4 * work.tokens


def engine(order: str, blocks: int = 20, budget: int = 64) -> Engine:
    limits = EngineLimits(max_batched_tokens=budget, max_seqs=8, kv_blocks=blocks)
    return Engine(limits, make_policy(order, WIDTHS.get(order)), step_s, token_budget="auto", tile_tokens=16)


@settings(deadline=None, max_examples=200)
@given(trace=traces, order=st.sampled_from(NAMES))
def test_every_request_gets_every_token_in_time_order_and_every_block_comes_back(
    trace: list[Arrival], order: str
) -> None:
    e = engine(order)
    result = run(trace, e, step_s)
    for job in result.jobs:
        assert job.produced == job.asked.output_tokens
        assert len(job.gaps_s) == job.produced - 1
        assert job.first_token_s is not None
        assert job.first_token_s > job.asked.time_s
        assert all(gap > 0 for gap in job.gaps_s)
    assert e.free_blocks == e.limits.kv_blocks
    assert not e.has_work


@settings(deadline=None, max_examples=120)
@given(trace=traces, order=st.sampled_from(NAMES))
def test_no_step_is_over_budget_or_over_the_cache(trace: list[Arrival], order: str) -> None:
    e = engine(order)

    def checked(work: Work) -> float:
        assert 0 < work.tokens <= e.limits.max_batched_tokens
        assert e.free_blocks >= 0
        assert len(e.running) <= e.limits.max_seqs
        assert sum(job.blocks for job in e.running) == e.limits.kv_blocks - e.free_blocks
        return step_s(work)

    run(trace, e, checked)


def crowd(seed: int, order: str) -> Result:
    rng, now_s, rows = random.Random(seed), 0.0, []
    for i in range(300):
        now_s += rng.expovariate(25)
        rows.append(
            Arrival(
                time_s=now_s,
                prompt_tokens=rng.randint(5, 300),
                output_tokens=rng.randint(2, 60),
                tbt_s=0.05 if i % 10 == 0 else 0.5,
            )
        )
    return run(rows, engine(order, blocks=120, budget=128), step_s)


@pytest.mark.parametrize("order", NAMES)
def test_the_same_input_gives_the_same_run(order: str) -> None:
    first, second = crowd(3, order), crowd(3, order)
    assert [j.gaps_s for j in first.jobs] == [j.gaps_s for j in second.jobs]
    assert first.end_s == second.end_s


def test_slai_trades_the_gaps_of_the_relaxed_for_first_tokens() -> None:
    plain, slai = crowd(1, "fcfs"), crowd(1, "slai")
    assert slai.hidden > 100
    before, after = figures(plain.jobs), figures(slai.jobs)
    assert before.ttft_p50_s is not None
    assert after.ttft_p50_s is not None
    assert after.ttft_p50_s < before.ttft_p50_s


def test_slai_plus_halves_the_median_and_keeps_both_targets() -> None:
    plain, plus = crowd(1, "fcfs"), crowd(1, "slai-plus")
    before, after = figures(plain.jobs).ttft_p50_s, figures(plus.jobs).ttft_p50_s
    assert before is not None
    assert after is not None
    assert after < 0.6 * before
    for target_s in (0.05, 0.5):
        gaps_s = figures(j for j in plus.jobs if j.asked.tbt_s == target_s).tbt_p99_s
        assert gaps_s is not None
        assert gaps_s <= target_s


def test_a_request_larger_than_the_cache_is_said_and_not_waited_for() -> None:
    with pytest.raises(StuckError, match="more blocks"):
        run([Arrival(time_s=0.0, prompt_tokens=1000, output_tokens=1)], engine("fcfs", blocks=10), step_s)


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([], 0.5) is None
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.95) == 4.0
    assert percentile([1.0], 0.01) == 1.0
