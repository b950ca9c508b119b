"""SLAI's decisions as tables: who waits, who must run, who is admitted first."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservice_core.latency import Work
from llmservice_core.policy_slai import BatchMean, RunningMean, Slai
from tests.core.scenes import RELAXED, STRICT, Named, chunks, decode, names, prompt, queued, view


def latest(tbt_s: float | None, *, batch_s: float = 0.046, usage: float = 0.5, **settings: Any) -> float:
    slai, task = Slai(**settings), decode("d", tbt_s=tbt_s)
    slai.stepped(Work(new_tokens=512, chunks=1), batch_s, None)
    slai.served([task], now_s=10.0, kv_usage=usage)
    return task.latest_start_s


@pytest.mark.parametrize(
    ("tbt_s", "usage", "expected"),
    [
        pytest.param(RELAXED, 0.50, 10 + 0.5 - 5 * 0.046, id="relaxed users may wait 0.27 s"),
        pytest.param(RELAXED, 0.959, 10 + 0.5 - 5 * 0.046, id="theta 5 below 96 % of the KV cache"),
        pytest.param(RELAXED, 0.96, 10 + 0.5 - 10 * 0.046, id="theta 10 from 96 % on: 0.04 s"),
        pytest.param(STRICT, 0.50, 10 + 0.1 - 5 * 0.046, id="strict users are late at once: decode first"),
    ],
)
def test_eq_8(tbt_s: float, usage: float, expected: float) -> None:
    assert latest(tbt_s, usage=usage) == pytest.approx(expected)


def test_a_fixed_offset_of_the_papers_variants() -> None:
    assert latest(RELAXED, usage=0.5, offset=10.0) == pytest.approx(10 + 0.5 - 10 * 0.046)


def test_without_a_target_a_token_never_waits() -> None:
    assert latest(None) == -math.inf


def decodes(due: list[float]) -> list[Named]:
    """One each, that arrived in this order; now is 0."""
    return [decode(str(i), arrival_s=i - 100.0, latest_start_s=d) for i, d in enumerate(due)]


@pytest.mark.parametrize(
    ("due", "critical", "later"),
    [
        pytest.param([], "", "", id="nothing runs"),
        pytest.param([0.0, -1.0, 1.0], "10", "2", id="critical from its latest start on, oldest due first"),
        pytest.param([4.0, 3.0, 2.0], "", "210", id="all may wait, next due first"),
        pytest.param([-4.0, -math.inf], "10", "", id="no target comes first"),
        pytest.param([-2.0, -2.0], "01", "", id="equal: first arrived first"),
    ],
)
def test_decodes(due: list[float], critical: str, later: str) -> None:
    slai = Slai()
    plan = slai.plan(view(slai, *decodes(due)))
    assert ("".join(names(plan.serve)), "".join(names(plan.later)), plan.waits) == (critical, later, ())


def test_with_async_scheduling_the_token_under_way_counts() -> None:
    slai = Slai()
    d = decode("d", latest_start_s=-0.01, pending_s=0.02)
    assert names(slai.plan(view(slai, d)).later) == ["d"]


def test_started_prompts_share_what_critical_decodes_leave_first_come_first_served() -> None:
    slai = Slai()
    begun = [prompt(n, 400, computed=100, waits=w) for n, w in (("b", 2), ("a", 3), ("c", 1))]
    plan = slai.plan(view(slai, *decodes([-1.0]), started=begun, budget_tokens=512))
    assert chunks(plan) == [("a", 300), ("b", 211)]
    assert plan.is_open, "what is left goes to the queue, in its order"


PROMPTS = (
    prompt("long strict", 4000, waits=9, tbt_s=STRICT),
    prompt("short strict", 100, waits=8, tbt_s=STRICT),
    prompt("short relaxed", 50, waits=10),
    prompt("same, later", 50, waits=1),
    prompt("no target", 1, waits=10, tbt_s=None),
    prompt("pre-empted relaxed", 5000, waits=2, produced=3),
)


def test_admission_order() -> None:
    """Pre-empted, then strict before relaxed before unknown, each shortest first, ties first come first served."""
    assert queued(Slai(), *PROMPTS) == [
        "pre-empted relaxed", "short strict", "long strict", "short relaxed", "same, later", "no target",
    ]  # fmt: skip


def test_the_papers_variant_without_user_priority_and_first_come_first_served() -> None:
    by_length = queued(Slai(strict_first=False), *PROMPTS)
    assert by_length == [
        "pre-empted relaxed", "no target", "short relaxed", "same, later", "short strict", "long strict",
    ]  # fmt: skip
    assert queued(Slai(strict_first=False, shortest_first=False), *PROMPTS)[1:3] == ["short relaxed", "no target"]


@given(st.lists(st.floats(-10, 10) | st.just(-math.inf), max_size=30))
def test_every_decode_is_in_exactly_one_place(due: list[float]) -> None:
    slai, running = Slai(), decodes(due)
    plan = slai.plan(view(slai, *running))
    assert sorted(names([*plan.serve, *plan.later])) == sorted(names(running))
    assert all(d.latest_start_s <= 0 for d in plan.serve)
    assert all(d.latest_start_s > 0 for d in plan.later)


@given(st.floats(0.01, 5), st.floats(0.001, 0.2), st.floats(0, 1))
def test_a_fuller_cache_never_lets_a_decode_wait_longer(tbt_s: float, batch_s: float, usage: float) -> None:
    assert latest(tbt_s, batch_s=batch_s, usage=1.0) <= latest(tbt_s, batch_s=batch_s, usage=usage)


class TestBatchMean:
    def mean(self, *steps: tuple[float, bool], **options: Any) -> float:
        mean = BatchMean(**options)
        for seconds, has_prefill in steps:
            mean.add(seconds, has_prefill=has_prefill)
        return mean.seconds

    def test_nothing_seen(self) -> None:
        assert self.mean() == 0.0

    def test_the_plain_mean_while_no_prompt_was_seen(self) -> None:
        assert self.mean((0.02, False), (0.04, False)) == pytest.approx(0.03)

    def test_the_mean_of_steps_with_prompts_when_that_is_larger(self) -> None:
        assert self.mean(*[(0.025, False)] * 99, (0.115, True)) == pytest.approx(0.115)

    def test_it_follows_a_change(self) -> None:
        assert self.mean(*[(0.1, True)] * 5000, *[(0.2, True)] * 2000, memory=512) == pytest.approx(0.2, rel=0.02)

    def test_the_published_mean_is_over_everything(self) -> None:
        mean = RunningMean()
        for seconds in [0.1] * 300 + [0.2] * 100:
            mean.add(seconds, has_prefill=True)
        assert mean.seconds == pytest.approx(0.125)
