"""The comparison of laws: its loads are what they say, its rows count what they say, and no run is done twice."""

import csv
import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from bench.sizing import aims, tune
from bench.sizing.cases import DATA, DAY_S, MOST_PROMPT, Shaped, sine, square
from bench.sizing.evidence import Comparison, names
from bench.sizing.kept import Kept, fingerprint
from bench.sizing.loads import LOADS, MAIN, MOST_RUNS, RISES_S, STEPS, TUNED, burst
from bench.sizing.tables import of_case
from bench.sizing.units import ORACLE, Row, row_of
from llmservice_core.model import Pool
from llmservice_core.planner_facts import Settings
from llmservice_sim.fast_fleet import FastFleet
from llmservice_sim.laws import Static
from llmservice_sim.laws_oracle import find
from llmservice_sim.laws_peers import Band

CONVERSATION = next(c for c in LOADS if c.name == "azure conversation")


def test_bursts_go_from_1_to_24_requests_a_second() -> None:
    assert (sine(0.0), sine(900.0), sine(1800.0)) == pytest.approx((1.0, 24.0, 1.0))
    assert (square(0.0), square(899.0), square(900.0), square(1800.0)) == (1.0, 1.0, 24.0, 1.0)
    trace = burst("square", ()).trace(1800.0)
    assert sum(a.time_s >= 900 for a in trace) == pytest.approx(24 * 900, rel=0.05)
    assert {(a.prompt_tokens, a.output_tokens) for a in trace} == {(8000, 1000)}


def test_the_day_that_laws_are_tuned_on_is_in_no_table() -> None:
    assert TUNED.rows not in [c.rows for c in LOADS]
    assert max(a.prompt_tokens for a in TUNED.trace(60.0)) <= MOST_PROMPT


def test_the_cheapest_that_keeps_every_promise_is_chosen() -> None:
    row = Row(law="", attained=[("c", 99.0, None)], good=0.0, worst=0.0, gpu_hours=3.0, ratio=None, changes=0)
    late = replace(row, attained=[("c", 98.99, None)], gpu_hours=2.0)
    assert tune.chosen({0.5: replace(row, gpu_hours=4.0), 0.6: row, 0.7: late}) == 0.6
    assert tune.chosen({0.7: late}) is None


def test_the_constants_of_other_laws_are_those_that_the_tuning_day_chose() -> None:
    """Or within 5 % of its GPU-hours, as TUNED.md says."""
    lines = [line for line in tune.RESULTS.read_text().splitlines() if line.startswith("| ")]
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in lines]
    for law, value in tune.USED.items():
        own = {float(r[2]): (float(r[3]), float(r[5])) for r in rows if r[0] == law}
        cheapest = min(hours for kept, hours in own.values() if kept >= tune.PROMISED)
        kept, hours = own[value]
        assert kept >= tune.PROMISED
        assert hours <= 1.05 * cheapest
    assert Band().low == pytest.approx(tune.LOW_OF_HIGH * Band().high, abs=0.005)


@pytest.mark.parametrize(("path", "day"), RISES_S)
def test_parts_are_the_two_hours_in_which_the_rate_rises_most(path: str, day: int) -> None:
    with gzip.open(DATA / path, "rt") as f:
        rows = [r for r in csv.DictReader(f) if day * DAY_S <= float(r["t_start_s"]) < (day + 1) * DAY_S]
    rates, suspect = [float(r["rate_rps"]) for r in rows], [r["suspect_gap"] == "1" for r in rows]
    usable = [at for at in range(len(rates) - 11) if not any(suspect[at : at + 12])]
    best = max(usable, key=lambda at: sum(rates[at + 6 : at + 12]) / sum(rates[at : at + 6]))
    assert RISES_S[path, day] == 600.0 * best


def test_sixty_named_runs_cover_the_loads() -> None:
    units = [(c.name, n) for c in LOADS for n in names(c)]
    assert len(units) == len(set(units)) == sum(c.runs for c in LOADS) <= MOST_RUNS
    assert {c.start_up_s for c in LOADS} == {30.0, 120.0, 300.0}
    assert sorted(c.seed for c in LOADS if c.name.startswith(MAIN.name)) == [0, 0, 0, 1, 2]
    assert {*STEPS, "flips", "slo_gain"} == {*Settings.__dataclass_fields__}


def test_a_row_has_its_worst_ten_minutes_and_its_ratio() -> None:
    case = CONVERSATION
    trace = [a for a in case.trace(660.0) if a.time_s < 60.0 or a.time_s >= 600.0]
    sizes = {Pool.PREFILL: 1, Pool.DECODE: 1}
    result = FastFleet(case.scenario(), Static(sizes)).run(trace)
    for r in result.requests:
        if r.asked.time_s >= 600.0:
            r.first_token_s = r.asked.time_s + 100.0
    row = row_of("rad", result, 2 * result.total_gpu_hours)
    assert row.worst == 0.0
    assert row.ratio == pytest.approx(0.5)
    assert 0.0 < row.good < 100.0
    assert row.least == min(s for _, ttft, tbt in row.attained for s in (ttft, tbt) if s is not None)
    parts = of_case(case, 660.0, [row, replace(row, law="without trend")])
    assert [line.count("|") for line in parts[0].splitlines()[-3:]] == [11, 11, 11]
    assert "without trend" in parts[1]
    assert "without trend" not in parts[0]


def test_a_run_is_kept_and_not_done_again_while_nothing_it_depends_on_changes(tmp_path: Path) -> None:
    case = replace(CONVERSATION, full_s=60.0, laws=("rad",))
    first = Comparison([case], Kept(tmp_path / "results.json"), is_quick=False)
    assert first.open() == [(case, ORACLE), (case, "rad")]
    first.do(minutes=2.0)
    again = Comparison([case], Kept(tmp_path / "results.json"), is_quick=False)
    assert again.open() == []
    assert [r.law for r in again.rows(case)] == [r.law for r in first.rows(case)]
    assert Comparison([replace(case, start_up_s=30.0)], Kept(tmp_path / "results.json"), is_quick=False).open()
    assert fingerprint(case, 60.0, "rad") == fingerprint(replace(case, laws=("rad", "hpa")), 60.0, "rad")


def test_no_run_begins_when_the_time_is_up(tmp_path: Path) -> None:
    comparison = Comparison([CONVERSATION], Kept(tmp_path / "results.json"), is_quick=False)
    comparison.do(minutes=0.0)
    assert len(comparison.open()) == CONVERSATION.runs


def test_giving_up_a_hopeless_run_finds_the_same_oracle() -> None:
    case, given_up = CONVERSATION, []

    class Whole(FastFleet):
        def run(self, trace, progress=None):  # type: ignore[no-untyped-def]
            given_up.append(1)
            return super().run(trace)

    trace, scenario = case.trace(240.0), case.scenario()
    quick, whole = (find(ORACLE, scenario, trace, make=make) for make in (FastFleet, Whole))
    assert given_up
    assert (quick.law, quick.scenario.initial, quick.runs) == (whole.law, whole.scenario.initial, whole.runs)


def test_an_aim_is_met_by_the_worst_promise_and_the_ratio() -> None:
    row = Row(
        law="rad",
        attained=[("a", 99.5, 100.0), ("b", 98.0, 100.0)],
        good=97.5,
        worst=90.0,
        gpu_hours=2.0,
        ratio=1.1,
        changes=3,
    )
    assert aims.verdict(MAIN, row).kept == "no: 98.00 %, 1.100"
    assert aims.verdict(MAIN, replace(row, attained=[("a", 99.0, None)], ratio=1.07)).kept == "yes"
    assert aims.verdict(replace(MAIN, start_up_s=300.0), replace(row, attained=[("a", 99.5, None)])).kept == "yes"
    assert aims.verdict(replace(MAIN, name="sine 1-24 req/s", rows=Shaped("sine")), row).kept == "yes"
    able = replace(row, law="hpa", attained=[("a", 99.0, 99.0)], gpu_hours=9.0)
    assert aims.cheapest([row, able]).startswith("hpa (9.00 GPU-hours")
