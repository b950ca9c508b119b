"""The soak's plan and its verdict: every kind of fault comes, each loss counts, only a killed router excuses one."""

import dataclasses
import json
from collections import Counter

import pytest

from e2e.chain.streams import Answer, LostError, Outcome, Reading, difference
from e2e.soak.counters import Growth, grown, sums
from e2e.soak.faults import FAULTS
from e2e.soak.record import Kill, Window, died_with_its_router, losses, tally
from e2e.soak.report import Soak, as_json, markdown
from e2e.soak.schedule import COUNTS, schedule

KILLS = [Kill(before_s=100.0, after_s=100.5)]


def answer(outcome: Outcome = Outcome.WHOLE, ended_s: float = 50.0, **more: object) -> Answer:
    row = Answer(service_class="batch", prompt=1, began_s=ended_s - 5, ended_s=ended_s, outcome=outcome, gap_s=0.2)
    return dataclasses.replace(row, **more)  # type: ignore[arg-type]


def window(kind: str, began_s: float, ended_s: float, problem: str = "") -> Window:
    return Window(kind=kind, what="done", began_s=began_s, ended_s=ended_s, well_s=began_s + 1, problem=problem)


def soak(*answers: Answer, problem: str = "") -> Soak:
    windows = [window("rollout", 0.0, 90.0), window("SIGKILL of a router", 90.0, 200.0, problem)]
    return Soak(settings={"seed": 1}, windows=windows, answers=answers, kills=KILLS, counters={}, first_s=0.0)


def test_every_planned_kind_can_be_done() -> None:
    assert set(COUNTS) == set(FAULTS)


def test_the_whole_soak_has_the_counts_and_fills_its_time() -> None:
    plan = schedule(90, 1, 1)
    assert Counter(p.kind for p in plan) == COUNTS
    assert plan == schedule(90, 1, 1) != schedule(90, 1, 2)
    assert plan[0].at_s == 0
    assert 90 * 60 - plan[-1].at_s == pytest.approx(90 * 60 / len(plan))


def test_a_short_soak_still_has_each_kind_once() -> None:
    assert Counter(p.kind for p in schedule(8, 0.1, 1)) == dict.fromkeys(COUNTS, 1)
    with pytest.raises(ValueError, match="above 0"):
        schedule(0, 1, 1)


@pytest.mark.parametrize(
    ("lost", "excused"),
    [
        (answer(Outcome.CUT, 101.0, is_broken=True), True),
        (answer(Outcome.FAILED, 100.2, is_broken=True), True),
        (answer(Outcome.CUT, 101.0), False),  # an error event: the router lived
        (answer(Outcome.CUT, 99.0, is_broken=True), False),  # before the kill
        (answer(Outcome.CUT, 107.0, is_broken=True), False),  # too late to be the kill's
        (answer(Outcome.CUT, 103.0, began_s=102.0, is_broken=True), False),  # begun after it
    ],
)
def test_only_a_connection_that_broke_with_a_killed_router_is_excused(lost: Answer, excused: bool) -> None:
    assert died_with_its_router(lost, KILLS) is excused
    assert losses([lost], KILLS) == ([] if excused else [lost])
    assert tally([lost], KILLS).with_router == excused


def test_an_altered_answer_is_never_excused() -> None:
    assert not soak(answer(), answer(Outcome.ALTERED, 101.0)).is_good


def test_a_soak_is_good_when_answers_came_and_all_whole_and_every_fault_passed() -> None:
    assert soak(answer()).is_good
    assert not soak().is_good
    assert not soak(answer(), answer(Outcome.FAILED)).is_good
    assert not soak(answer(), problem="never well").is_good
    assert not dataclasses.replace(soak(answer()), not_done=1).is_good


def test_the_report_says_what_was_lost_and_when() -> None:
    done = soak(answer(), answer(Outcome.CUT, 101.0, detail="error event: gone"), answer(ended_s=95.0, reconnects=2))
    page = markdown(done)
    assert "| rollout | 1 | batch | 1 | 1 | 0 | 0 | 0 | 0 | 0.2 |" in page
    assert "| SIGKILL of a router | 1 | batch | 2 | 1 | 0 | 1 | 0 | 0 | 0.2 |" in page
    assert "- 2 connections were refused and made again." in page
    assert "11.0 s after the beginning of: SIGKILL of a router" in page
    assert json.loads(json.dumps(as_json(done)))["windows"][1]["classes"]["batch"]["cut"] == 1


def test_counters_of_processes_that_start_anew_add_up() -> None:
    growth = Growth()
    for source, value in (("a", 2.0), ("a", 3.0), ("b", 1.0), ("a", 1.0)):
        growth.saw(source, {"x": value})
    assert growth.total == {"x": 5.0}
    assert grown({"x": 2.0}, {"x": 5.0, "y": 0.0}) == {"x": 3.0}


def test_of_a_metrics_page_the_counters_of_trouble_are_read() -> None:
    page = """# HELP llmservice_router_retries_total x
llmservice_router_retries_total{llmservice="n/s",phase="decode",reason="cut"} 2.0
llmservice_router_requests_total{class="a",code="200",llmservice="n/s",outcome="failed"} 1.0
llmservice_router_requests_total{class="b",code="200",llmservice="n/s",outcome="failed"} 2.0
llmservice_router_requests_total{class="a",code="200",llmservice="n/s",outcome="ok"} 9.0
llmservice_router_output_tokens_total{class="a",llmservice="n/s"} 9.0
llmservice_router_retries_created{llmservice="n/s",phase="decode",reason="cut"} 1.7e9"""
    assert sums(page) == {
        'llmservice_router_retries_total{phase="decode",reason="cut"}': 2.0,
        'llmservice_router_requests_total{code="200",outcome="failed"}': 3.0,
    }


def test_a_reading_knows_what_came_before_an_error() -> None:
    reading = Reading()
    with pytest.raises(LostError) as early:
        reading.line(b'data: {"error": {"message": "no"}}')
    reading.line(b'data: {"choices": [{"text": "ab", "token_ids": [7, 8]}]}')
    reading.line(b'data: {"choices": [], "usage": {"completion_tokens": 2}}')
    with pytest.raises(LostError) as late:
        reading.line(b'data: {"error": {"message": "no"}}')
    assert (early.value.outcome, late.value.outcome) == (Outcome.FAILED, Outcome.CUT)
    assert (reading.tokens, reading.used, reading.is_done) == (("ab", (7, 8)), 2, False)


def test_answers_that_differ_say_where() -> None:
    assert difference(("abc", (1, 2, 3)), ("abd", (1, 2, 4))).endswith("character 2 of 3 (got 3), token 2 of 3 (got 3)")
    assert "token 1 of 2 (got 1)" in difference(("ab", (1, 2)), ("ab", (1,)))
