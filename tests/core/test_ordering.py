"""SLAI's decisions as tables: who waits, who must run, who is admitted first."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservice_core.ordering import POLICIES, BatchMean, Decode, Prompt, Slai, Started

STRICT, RELAXED = 0.1, 0.5
slai = Slai()


def latest(tbt_s: float | None, *, batch_s: float = 0.046, usage: float = 0.5) -> float:
    return slai.latest_start(served_s=10.0, tbt_s=tbt_s, batch_s=batch_s, kv_usage=usage)


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


def test_without_a_target_a_token_never_waits() -> None:
    assert latest(None) == -math.inf


def decide(now_s: float, due: list[float], started: list[float] | None = None) -> tuple[tuple[int, ...], ...]:
    decodes = [Decode(d, arrival=float(i), place=i) for i, d in enumerate(due)]
    return slai.decide(now_s, decodes, [Started(a, 100 + i) for i, a in enumerate(started or [])])


@pytest.mark.parametrize(
    ("due", "critical", "later"),
    [
        pytest.param([], (), (), id="nothing runs"),
        pytest.param(
            [5.0, 4.0, 6.0], (1, 0), (2,), id="a decode is critical from its latest start on, oldest due first"
        ),
        pytest.param([9.0, 8.0, 7.0], (), (2, 1, 0), id="all may wait, next due first"),
        pytest.param([1.0, -math.inf], (1, 0), (), id="no target comes first"),
        pytest.param([3.0, 3.0], (0, 1), (), id="equal: first arrived first"),
    ],
)
def test_decodes(due: list[float], critical: tuple[int, ...], later: tuple[int, ...]) -> None:
    assert decide(5.0, due) == (critical, (), later)


def test_started_prompts_are_first_come_first_served() -> None:
    assert decide(0.0, [1.0], started=[3.0, 1.0, 2.0])[1] == (101, 102, 100)


PROMPTS: dict[str, Prompt] = {
    "long strict": Prompt(tokens=4000, arrival=1, tbt_s=STRICT),
    "short strict": Prompt(tokens=100, arrival=2, tbt_s=STRICT),
    "short relaxed": Prompt(tokens=50, arrival=0, tbt_s=RELAXED),
    "same, later": Prompt(tokens=50, arrival=9, tbt_s=RELAXED),
    "no target": Prompt(tokens=1, arrival=0),
    "pre-empted relaxed": Prompt(tokens=5000, arrival=8, tbt_s=RELAXED, was_running=True),
}


def test_admission_order() -> None:
    """Pre-empted, then strict before relaxed before unknown, each shortest first, ties first come first served."""
    ordered = sorted(PROMPTS, key=lambda name: slai.waiting_key(PROMPTS[name]))
    assert ordered == [
        "pre-empted relaxed", "short strict", "long strict", "short relaxed", "same, later", "no target",
    ]  # fmt: skip


decodes_st = st.lists(st.floats(0, 10) | st.just(-math.inf), max_size=30)


@given(st.floats(0, 10), decodes_st, st.lists(st.floats(0, 10), max_size=10))
def test_every_request_is_in_exactly_one_place(now_s: float, due: list[float], started: list[float]) -> None:
    critical, prompts, later = decide(now_s, due, started)
    assert sorted((*critical, *later)) == list(range(len(due)))
    assert sorted(prompts) == [100 + i for i in range(len(started))]
    assert all(due[i] <= now_s for i in critical)
    assert all(due[i] > now_s for i in later)


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


def test_the_names_that_an_engine_may_be_given() -> None:
    assert list(POLICIES) == ["slai", "slai-published"]
    assert all(policy.name == name for name, policy in POLICIES.items())
