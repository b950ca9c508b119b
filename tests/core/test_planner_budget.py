"""Too few GPUs: goodness by a table, the split by gain, and what the plan says of it."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.model import Plan, Pool
from llmservice_core.planner import plan
from llmservice_core.planner_budget import Claim, gain, goodness, served
from llmservice_core.planner_facts import Settings
from llmservice_core.planner_limits import fit, gpus
from tests.core.test_planner import goal, memory, observation, seen, traffic
from tests.core.test_planner_limits import wish

P, D, M = Pool.PREFILL, Pool.DECODE, Pool.MIXED


def claim(name: str, worth: float, **need: float) -> Claim:
    return Claim(name=name, strictness_s=1.0, worth=worth, need={Pool(p): n for p, n in need.items()})


CHAT, BATCH = claim("chat", 10.0, prefill=1.0, decode=3.0), claim("batch", 1.0, prefill=3.0, decode=1.0)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((4, 4), {"chat": 1.0, "batch": 1.0}),
        ((1, 3), {"chat": 1.0, "batch": 0.0}),
        ((2, 3), {"chat": 1.0, "batch": 0.0}),
        ((4, 3), {"chat": 1.0, "batch": 0.0}),
        ((1, 2), {"chat": 2 / 3, "batch": 0.0}),
        ((2, 4), {"chat": 1.0, "batch": 1 / 3}),
    ],
)
def test_strict_classes_are_served_first_and_by_both_pools(sizes: tuple[int, int], expected: dict[str, float]) -> None:
    assert served((CHAT, BATCH), dict(zip((P, D), sizes, strict=True))) == pytest.approx(expected)


def test_the_next_gpu_goes_where_it_adds_most() -> None:
    """At 1 + 2 a decode replica brings the last third of chat, a prefill replica nothing yet."""
    sizes = {P: 1, D: 2}
    assert gain((CHAT, BATCH), sizes, D, 1) == pytest.approx(10.0 / 3)
    assert gain((CHAT, BATCH), sizes, P, 1) == 0.0
    assert gain((CHAT, BATCH), sizes, D, 2) == pytest.approx(10.0 / 6)


def sizes_of(budget: int, claims: tuple[Claim, ...], **changes: Any) -> tuple[int, int]:
    fitted = fit([wish(P, 4, **changes), wish(D, 4, **changes)], budget, claims).sizes
    return fitted[P], fitted[D]


@pytest.mark.parametrize(
    ("budget", "claims", "expected"),
    [
        pytest.param(4, (CHAT, BATCH), (1, 3), id="chat is served whole before batch gets anything"),
        pytest.param(6, (CHAT, BATCH), (2, 4), id="then batch, in the pool that all of it needs first"),
        pytest.param(8, (CHAT, BATCH), (4, 4), id="enough for all"),
        pytest.param(4, (), (2, 2), id="nothing known of classes: by load"),
    ],
)
def test_the_split(budget: int, claims: tuple[Claim, ...], expected: tuple[int, int]) -> None:
    assert sizes_of(budget, claims) == expected


needs = st.floats(0.1, 6.0)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 20.0), needs, needs), min_size=1, max_size=3), st.integers(2, 12))
def test_the_split_is_within_reach_of_the_best_one(rows: list[tuple[float, float, float]], budget: int) -> None:
    """Step by step is not always best, for two pools help together; all splits are looked at here for comparison."""
    claims = tuple(claim(f"c{i}", worth, prefill=p, decode=d) for i, (worth, p, d) in enumerate(rows))
    wishes = [wish(P, 9), wish(D, 9)]
    found = fit(wishes, budget, claims).sizes
    assert gpus(wishes, found) <= budget
    best = max(goodness(claims, {P: n, D: budget - n}) for n in range(1, budget))
    by_load = goodness(claims, fit(wishes, budget).sizes)
    mine = goodness(claims, found)
    assert mine >= 0.6 * best
    assert mine >= 0.6 * by_load


def planned(budget: int, weight: float = 10.0, settings: Settings | None = None) -> Plan:
    """Chat has short prompts and long answers, batch long prompts and short answers."""
    classes = (traffic("interactive", 5.0, 500.0, 800.0), traffic("batch", 5.0, 4000.0, 50.0))
    base = goal(gpu_budget=budget)
    asked = replace(base, classes=(replace(base.classes[0], weight=weight), base.classes[1]))
    observed = observation(seen(P), seen(D), classes=classes)
    return plan(asked, observed, memory(), settings=settings or Settings())[0]


class TestPlan:
    def test_the_strict_class_gets_the_pool_that_it_needs(self) -> None:
        """It goes first in every engine, so whatever batch weighs, it gets nothing until chat has its decode pool."""
        free, tight = planned(64), planned(4)
        assert (free.replicas(P), free.replicas(D)) == (2, 3)
        assert (tight.replicas(P), tight.replicas(D)) == (1, 3)
        assert (planned(4, weight=0.01).replicas(P), planned(4, weight=0.01).replicas(D)) == (1, 3)

    def test_the_record_says_what_is_short_and_what_it_costs(self) -> None:
        why = planned(4).steps[-1].why
        assert "prefill 1 short; by SLO gain per GPU, weights counted: " in why
        assert "% of interactive" in why
        assert "short" not in planned(64).steps[-1].why

    def test_left_out_it_is_by_load(self) -> None:
        assert "SLO gain" not in planned(4, settings=Settings(slo_gain=False)).steps[-1].why
