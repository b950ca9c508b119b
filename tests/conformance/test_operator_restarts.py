"""A restarted operator decides the same as the old one within one interval: its memory is read from the status, and
what happened since that was written is rebuilt from Prometheus' history. As test_metrics_lie.py."""

import pytest

from llmservice_core.model import Pool
from llmservice_core.planner_memory import Memory
from llmservice_core.replay import is_due
from tests.conformance.test_metrics_lie import END_S, TRAFFIC, disturbed
from tests.conformance.world import Run, goal, run, scenario

INTERVAL_S = 15.0
MOMENTS = {
    "quiet, long after the last change": 165.0,
    "as the load rises": 225.0,
    "in the middle of a scale-up": 255.0,
    "busy and steady": 450.0,
    "as the load falls": 540.0,
    "while a scale-down is held back": 570.0,
    "just after a scale-down": 600.0,
}


@pytest.fixture(scope="module")
def alive() -> Run:
    return disturbed()


def same_within_one_interval(mine: Run, theirs: Run, start_s: float) -> list[str]:
    """Moments at which the sizes are none that the other one had within one interval; empty: none."""
    wrong = []
    for tick in mine.between(start_s, END_S):
        near = [t.sizes() for t in theirs.between(tick.time_s - INTERVAL_S, tick.time_s + INTERVAL_S)]
        if tick.sizes() not in near:
            wrong.append(f"{tick.time_s}: {tick.sizes()} and not {near}")
    return wrong


@pytest.mark.parametrize("moment", MOMENTS)
def test_restarted(alive: Run, moment: str) -> None:
    """Killed, and back with the memory of the status, which is as old as the last change of a reason."""
    found = disturbed(restarts_s=[MOMENTS[moment]])
    assert same_within_one_interval(found, alive, MOMENTS[moment]) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_restarted_without_its_status(alive: Run, moment: str) -> None:
    """Somebody has emptied the status: all is rebuilt from samples."""
    found = disturbed(restarts_s=[MOMENTS[moment]], is_status_lost=True)
    assert same_within_one_interval(found, alive, MOMENTS[moment]) == []


def test_the_record_is_the_same(alive: Run) -> None:
    """Not only sizes: each step's wish of the first plan after the restart, within what rounding and replay leave."""
    at_s = 450.0
    found = disturbed(restarts_s=[at_s])
    mine, theirs = found.at(at_s).plan, alive.at(at_s).plan
    assert mine.reason == theirs.reason
    assert [s.name for s in mine.steps] == [s.name for s in theirs.steps]
    for one, other in zip(mine.steps, theirs.steps, strict=True):
        assert one.sizes == pytest.approx(other.sizes, rel=0.03), one.name
    assert mine.capacity == pytest.approx(theirs.capacity, rel=0.02)


def test_a_new_process_sees_the_same() -> None:
    """It does not know yet how often is scraped, so it asks for ten minutes; at a scrape each 5 s less counts."""
    often, moments = scenario(goal(), scrape_s=5.0), [*MOMENTS.values()]
    mine, theirs = (run(often, TRAFFIC, END_S, restarts_s=restarts) for restarts in (moments, []))
    first = [t + INTERVAL_S for t in moments]
    assert [mine.at(t).seen for t in first] == [theirs.at(t).seen for t in first]


def test_away_for_three_minutes_while_the_load_falls(alive: Run) -> None:
    """It comes back to a load that fell long ago: one stabilization window later at most it is where it would be."""
    found = disturbed(restarts_s=[500.0], away_s=180.0)
    assert found.at(705.0).sizes() == alive.at(705.0).sizes()


def test_what_a_restart_costs_without_a_replay(alive: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the checks: an operator that does not rebuild anything is told from one that does."""
    monkeypatch.setattr("tests.conformance.world.replay.is_due", lambda *_: False)
    at_s = MOMENTS["while a scale-down is held back"]
    found = disturbed(restarts_s=[at_s], is_status_lost=True)
    assert same_within_one_interval(found, alive, at_s) != []


def test_a_new_service_has_nothing_to_rebuild() -> None:
    assert not is_due(goal(), None, now_s=20.0, since_s=0.0)
    assert is_due(goal(), None, now_s=60.0, since_s=0.0)
    assert not is_due(goal(), Memory(started_s=0.0, updated_s=40.0), now_s=60.0, since_s=0.0)
    assert is_due(goal(), Memory(started_s=0.0, updated_s=0.0), now_s=60.0, since_s=0.0)


def test_restarted_again_and_again(alive: Run) -> None:
    """Every two minutes: no decision is lost, and a pool that is not needed still goes."""
    found = disturbed(restarts_s=[120.0 * n for n in range(1, 7)])
    assert found.at(END_S).sizes() == {Pool.PREFILL: 1, Pool.DECODE: 1}
    assert max(found.sizes(Pool.PREFILL)) == max(alive.sizes(Pool.PREFILL))
