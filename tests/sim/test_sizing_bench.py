"""The comparison of laws: its loads are what they say, and its rows count what they say."""

import pytest

from bench.sizing.cases import BURSTS, CASES, MOST_PROMPT, TUNED, sine, square
from bench.sizing.evidence import Clock, row_of
from bench.sizing.tables import compared
from llmservice_core.model import Pool
from llmservice_sim.fast_fleet import FastFleet
from llmservice_sim.laws import Static


def test_bursts_go_from_1_to_24_requests_a_second() -> None:
    assert (sine(0.0), sine(900.0), sine(1800.0)) == pytest.approx((1.0, 24.0, 1.0))
    assert (square(0.0), square(899.0), square(900.0), square(1800.0)) == (1.0, 1.0, 24.0, 1.0)
    trace = BURSTS[1].trace(1800.0)
    assert sum(a.time_s >= 900 for a in trace) == pytest.approx(24 * 900, rel=0.05)
    assert {(a.prompt_tokens, a.output_tokens) for a in trace} == {(8000, 1000)}


def test_the_day_that_laws_are_tuned_on_is_in_no_table() -> None:
    assert TUNED.name not in {c.name for c in (*CASES, *BURSTS)}
    assert max(a.prompt_tokens for a in TUNED.trace(60.0)) <= MOST_PROMPT


def test_a_row_has_its_worst_ten_minutes_and_its_ratio() -> None:
    case = CASES[0]
    trace = [a for a in case.trace(660.0) if a.time_s < 60.0 or a.time_s >= 600.0]
    sizes = {Pool.PREFILL: 1, Pool.DECODE: 1}
    result = FastFleet(case.scenario(), Static(sizes)).run(trace)
    for r in result.requests:
        if r.asked.time_s >= 600.0:
            r.first_token_s = r.asked.time_s + 100.0
    row = row_of("static", result, 2 * result.total_gpu_hours)
    assert row.worst == 0.0
    assert row.ratio == pytest.approx(0.5)
    assert 0.0 < row.good < 100.0
    lines = compared(case, 660.0, [row]).splitlines()
    assert [line.count("|") for line in lines[-3:]] == [11, 11, 11]


def test_no_run_begins_when_the_time_is_up() -> None:
    assert not Clock(-1.0).permits()
    clock = Clock(60.0)
    assert clock.permits(60)
    assert not clock.permits()
    assert (clock.runs, clock.left_out) == (60, 1)
