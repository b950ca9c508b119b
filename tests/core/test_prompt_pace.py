"""What is learned of an engine's pace, when it is known, and the time to first token that follows. All times given."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.line import Amount
from llmservice_core.prompt_pace import FRESH_S, Expected, Lag, PromptPace, expect, filled

LAW = settings(deadline=None, max_examples=60)


def served(*prompts: tuple[float, float], gap_s: float = 0.0) -> tuple[PromptPace, float]:
    """An engine that computes prompts of so many tokens in so many seconds, one after the other; and the time."""
    pace, now_s = PromptPace(), 0.0
    for tokens, seconds in prompts:
        pace.began(tokens, now_s)
        now_s += seconds
        pace.ended(tokens, now_s)
        now_s += gap_s
    return pace, now_s


def test_cost_per_prompt_and_per_token_are_told_apart() -> None:
    pace, _ = served(*((n, 0.02 + 0.0001 * n) for n in (10, 4000, 500, 2000, 60, 1000)))
    assert pace.seconds(Amount(1, 0)) == pytest.approx(0.02)
    assert pace.seconds(Amount(2, 3000)) == pytest.approx(0.34)


def test_equal_lengths_tell_only_the_cost_of_a_token() -> None:
    pace, _ = served(*[(1000, 0.1)] * 5)
    assert pace.seconds(Amount(1, 2000)) == pytest.approx(0.2)


def test_idle_time_is_not_counted() -> None:
    busy, _ = served(*[(1000, 0.1)] * 5)
    idle, _ = served(*[(1000, 0.1)] * 5, gap_s=100.0)
    assert idle.seconds(Amount(1, 1000)) == pytest.approx(busy.seconds(Amount(1, 1000)))


def test_prompts_of_one_step_share_its_time() -> None:
    pace = PromptPace()
    for step in range(10):
        for _ in range(8):
            pace.began(100, float(step))
        for _ in range(8):
            pace.ended(100, step + 0.2)
    assert pace.seconds(Amount(8, 800)) == pytest.approx(0.2, rel=0.2)


def test_unknown_before_three_have_ended_and_when_none_has_for_a_while() -> None:
    two, now_s = served((10, 1), (10, 1))
    assert not two.is_known(now_s)
    many, now_s = served(*[(10, 1)] * 5)
    assert many.is_known(now_s + FRESH_S)
    assert not many.is_known(now_s + FRESH_S + 0.1)


def test_what_failed_says_nothing_and_holds_nothing() -> None:
    pace, now_s = served(*[(10, 1.0)] * 5)
    pace.began(500, now_s)
    pace.began(30, now_s)
    assert pace.held == Amount(2, 530)
    pace.gone(500)
    assert pace.held == Amount(1, 30)
    pace.gone(30)
    assert pace.held == Amount()
    assert pace.seconds(Amount(1, 10)) == pytest.approx(1.0)


def test_one_stop_of_the_machine_is_no_new_pace() -> None:
    pace, _ = served(*[(100, 0.1)] * 20, (100, 60.0), *[(100, 0.1)] * 3)
    assert pace.seconds(Amount(1, 100)) < 0.15


def test_a_slower_engine_is_believed_soon() -> None:
    pace, _ = served(*[(100, 0.1)] * 40, *[(100, 1.0)] * 40)
    assert pace.seconds(Amount(1, 100)) > 0.85


@LAW
@given(
    prompts=st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 10)), min_size=4, max_size=30),
    one=st.integers(0, 10_000),
    more=st.integers(0, 10_000),
)
def test_law_more_work_never_takes_less_time(prompts: list[tuple[int, float]], one: int, more: int) -> None:
    pace, _ = served(*prompts)
    assert 0 <= pace.seconds(Amount(1, one)) <= pace.seconds(Amount(2, one + more)) * (1 + 1e-9) + 1e-9


def test_lag_is_a_mean_that_forgets_and_gets_old() -> None:
    lag = Lag()
    assert lag.at(0.0) is None
    lag.saw(1.0, 0.0)
    assert lag.at(0.0) == 1.0
    for i in range(20):
        lag.saw(0.1, float(i))
    assert lag.at(20.0) == pytest.approx(0.1, abs=0.02)
    assert lag.at(19.0 + FRESH_S + 0.1) is None


def test_the_sum_has_its_parts() -> None:
    """Two engines at 1 ms per token; 3,000 tokens in them and 5,000 in front of a prompt of 400, half a second old."""
    one, now_s = served(*[(1000, 1.0)] * 5)
    two, _ = served(*[(1000, 1.0)] * 5)
    one.began(3000, now_s)
    seen = expect([one, two], own=Amount(1, 400), ahead=Amount(4, 5000), after_s=0.2, age_s=0.5, now_s=now_s)
    assert seen is not None
    assert (seen.queue_s, seen.prefill_s, seen.after_s) == (pytest.approx(4.0), pytest.approx(0.4), 0.2)
    assert seen.ttft_s == pytest.approx(5.1)
    assert seen.service_s == pytest.approx(0.6)
    assert seen.late_by_s(5.0) == pytest.approx(0.1)


def test_an_engine_that_nobody_has_seen_is_as_fast_as_the_others() -> None:
    known, now_s = served(*[(1000, 1.0)] * 5)
    seen = expect([known, PromptPace()], own=Amount(1, 1), ahead=Amount(1, 2000), after_s=0, age_s=0, now_s=now_s)
    assert seen is not None
    assert seen.queue_s == pytest.approx(1.0)


def test_nothing_is_said_while_something_is_unknown() -> None:
    known, now_s = served(*[(1000, 1.0)] * 5)

    def seen(*paces: PromptPace, after_s: float | None = 0.0, later_s: float = 0.0) -> Expected | None:
        return expect(paces, own=Amount(1, 1), ahead=Amount(), after_s=after_s, age_s=0.0, now_s=now_s + later_s)

    assert seen() is None
    assert seen(PromptPace()) is None
    assert seen(known, after_s=None) is None
    assert seen(known, later_s=FRESH_S + 1) is None
    assert seen(known) is not None


@pytest.mark.parametrize(
    ("levels", "more", "level"),
    [([3], 0, 3), ([3], 2, 5), ([3, 1], 0, 1), ([3, 1], 2, 3), ([1, 3], 5, 4.5), ([0, 0, 9], 4, 2), ([2, 2], 0, 2)],
)
def test_the_engine_that_is_done_first_takes_the_next(levels: list[float], more: float, level: float) -> None:
    assert filled(levels, more) == pytest.approx(level)


def test_what_a_prompt_has_had_already_is_not_waited_for_again() -> None:
    pace, now_s = served(*[(1000, 1.0)] * 5)
    pace.began(2000, now_s)
    assert pace.left_s(now_s + 0.5) == pytest.approx(1.5)
    assert pace.left_s(now_s + 5.0) == 0.0
