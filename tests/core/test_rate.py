"""Laws of the token bucket: never more than burst + rate x time, monotone, and waits that are exactly long enough."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.rate import Bucket, full

LAW = settings(deadline=None, max_examples=200)
limits = st.floats(60, 1e6)
sizes = st.floats(0, 2e6)
times = st.floats(0, 1e4)
NEAR = 1e-6


gaps = st.floats(0, 120)
asks = st.tuples(gaps, sizes, st.floats(0, 3))
"""Time since the last one, predicted tokens, and its real use as a multiple of the prediction."""


@LAW
@given(limit=limits, asks=st.lists(asks, max_size=40), open_for=st.integers(0, 5))
def test_after_each_admission_all_use_is_within_burst_and_rate(
    limit: float, asks: list[tuple[float, float, float]], open_for: int
) -> None:
    """Real use of what has ended, predictions of what runs; each request ends `open_for` requests later."""
    now_s, bucket = 0.0, full(limit, 0.0)
    used, running = 0.0, list[tuple[float, float]]()
    for gap_s, tokens, factor in asks:
        now_s += gap_s
        while len(running) > open_for:
            predicted, really = running.pop(0)
            bucket, used = bucket.settle(predicted, really, now_s), used + really
        if bucket.wait_s(tokens, now_s) == 0:
            bucket = bucket.take(tokens, now_s)
            running.append((tokens, tokens * factor))
            assert used + sum(p for p, _ in running) <= limit + limit / 60 * now_s + NEAR * limit


@LAW
@given(limit=limits, taken=sizes, a_s=times, b_s=times)
def test_the_level_only_rises_with_time_and_never_over_the_burst(
    limit: float, taken: float, a_s: float, b_s: float
) -> None:
    first, second = sorted((a_s, b_s))
    bucket = full(limit, 0.0).take(taken, 0.0)
    assert bucket.at(first).level_tokens <= bucket.at(second).level_tokens <= limit
    assert bucket.at(second).at(first) == bucket.at(second), "a clock that goes back changes nothing"


@LAW
@given(limit=limits, taken=sizes, small=sizes, large=sizes, now_s=times)
def test_who_asks_for_more_never_waits_less(
    limit: float, taken: float, small: float, large: float, now_s: float
) -> None:
    bucket = full(limit, 0.0).take(taken, 0.0)
    small, large = sorted((small, large))
    waits = [bucket.wait_s(tokens, now_s) for tokens in (small, large)]
    assert waits[1] is None or (waits[0] is not None and waits[0] <= waits[1])
    assert (waits[0] is None) == (small > limit)


@LAW
@given(limit=limits, taken=sizes, asked=st.floats(0, 1), now_s=times)
def test_after_the_wait_there_is_enough_and_not_long_before(
    limit: float, taken: float, asked: float, now_s: float
) -> None:
    bucket, tokens = full(limit, 0.0).take(taken, 0.0), asked * limit
    wait_s = bucket.wait_s(tokens, now_s)
    assert wait_s is not None
    assert bucket.at(now_s + wait_s).level_tokens >= tokens - NEAR * limit
    if wait_s > 1:
        assert bucket.wait_s(tokens, now_s + wait_s - 1) != 0


@LAW
@given(limit=limits, tokens=st.floats(0, 1), now_s=times)
def test_a_refund_at_once_leaves_no_trace(limit: float, tokens: float, now_s: float) -> None:
    bucket = full(limit, 0.0)
    after = bucket.take(tokens * limit, now_s).settle(tokens * limit, 0.0, now_s)
    assert after.level_tokens == pytest.approx(bucket.at(now_s).level_tokens)


@LAW
@given(old=limits, new=limits, taken=st.floats(0, 2), now_s=times)
def test_another_limit_gives_nothing_away(old: float, new: float, taken: float, now_s: float) -> None:
    bucket = full(old, 0.0).take(taken * old, 0.0)
    changed = bucket.limited_to(new, now_s)
    assert changed.level_tokens <= min(bucket.at(now_s).level_tokens, new)
    assert (changed.burst_tokens, changed.rate_per_s) == (new, pytest.approx(new / 60))


def test_numbers_that_a_person_can_follow() -> None:
    """600 tokens a minute: ten come back each second."""
    bucket: Bucket = full(600, 100.0).take(590, 100.0)
    assert bucket.wait_s(60, 100.0) == pytest.approx(5)
    assert bucket.wait_s(60, 105.1) == 0
    assert bucket.wait_s(601, 1e9) is None
    assert bucket.settle(590, 1190, 100.0).level_tokens == -590, "a debt"
