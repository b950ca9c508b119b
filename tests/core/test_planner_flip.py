"""Flips: who lends, how much, when not; and what limits leave of it."""

from dataclasses import replace
from typing import Any

import pytest

from llmservice_core.model import Attainment, Flip, Plan, Pool
from llmservice_core.planner import plan
from llmservice_core.planner_facts import ALL_STEPS, Settings
from llmservice_core.planner_flip import carried_out
from tests.core.test_planner import NOW, goal, memory, observation, pool_goal, seen, traffic

P, D = Pool.PREFILL, Pool.DECODE
FLIPS = replace(ALL_STEPS, flips=True)
LATELY = {P: ((NOW - 200.0, 4), (NOW - 50.0, 1))}
"""Prefill needed 4 three minutes ago and 1 since; its stabilisation holds 4 for one start-up."""


def planned(*pools: Any, settings: Settings = FLIPS, wants: Any = LATELY, **changes: Any) -> Plan:
    """Decode work for 4 replicas (u 2.8 + .59), prefill for one."""
    classes = changes.pop("classes", (traffic("interactive", 0.0), traffic("batch", 5.0, 200.0, 1010.0)))
    asked = changes.pop("goal", goal())
    observed = observation(*(pools or (seen(P, 4), seen(D, 2))), classes=classes, **{"start_up_s": 300.0, **changes})
    return plan(asked, observed, memory(wants=wants), settings=settings)[0]


def sizes(made: Plan) -> tuple[int | None, int | None]:
    return made.replicas(P), made.replicas(D)


def test_what_is_only_held_serves_in_the_pool_that_grows() -> None:
    made = planned()
    assert made.flip == Flip(source=P, target=D, count=2, why="flip 2 prefill -> decode: a start takes 300 s")
    assert sizes(made) == (2, 4)
    assert "flip 2 prefill -> decode" in next(s.why for s in made.steps if s.name == "flip")


def test_without_flips_it_is_held_and_pods_start() -> None:
    made = planned(settings=ALL_STEPS)
    assert made.flip is None
    assert sizes(made) == (4, 4)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"start_up_s": 120.0}, id="a start is short"),
        pytest.param({"wants": {P: ((NOW - 50.0, 4),)}}, id="it was needed less than a minute ago"),
        pytest.param({"goal": goal(pools=(pool_goal(P), pool_goal(D, gpus=2)))}, id="other GPUs"),
        pytest.param({"unscraped_routers": 1}, id="more may arrive than is counted"),
        pytest.param(
            {"classes": (traffic("interactive", 0.0), traffic("batch", 1.0, 200.0, 100.0))}, id="nobody grows"
        ),
    ],
)
def test_no_flip(changes: dict[str, Any]) -> None:
    assert planned(**changes).flip is None


def test_a_pool_that_misses_lends_nothing() -> None:
    late = Attainment(target_s=30.0, events=500.0, good=300.0)
    batch = replace(traffic("batch", 5.0, 200.0, 1010.0), ttft=late)
    assert planned(classes=(traffic("interactive", 0.0), batch)).flip is None


def test_pods_that_start_cannot_be_lent() -> None:
    made = planned(seen(P, 4, ready=2, starting=2), seen(D, 2))
    assert made.flip is not None
    assert made.flip.count == 1


def test_a_small_budget_leaves_as_many_as_both_sizes_show() -> None:
    flip = Flip(source=P, target=D, count=3, why="")
    assert carried_out(flip, {P: 4, D: 2}, {P: 2, D: 5}) == replace(flip, count=2)
    assert carried_out(flip, {P: 4, D: 2}, {P: 1, D: 3}) == replace(flip, count=1)
    assert carried_out(flip, {P: 4, D: 2}, {P: 4, D: 5}) is None
    assert carried_out(None, {P: 4, D: 2}, {P: 1, D: 5}) is None
