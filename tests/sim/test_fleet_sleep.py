"""A service without engines between two bursts: the planner puts it to sleep and wakes it, and no request is lost."""

from dataclasses import replace

import pytest

from llmservice_core.model import Pool, Reason
from llmservice_sim.fleet_requests import Outcome
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.fleet_settings import Scenario, StartUp
from llmservice_sim.jobs import Arrival
from tests.sim.fleets import SPLIT, goal, poisson, run, scenario

START_UP_S = 40.0
IDLE_S = 120.0


def sleepy(pools: tuple[Pool, ...] = SPLIT, low: int = 0, **changes: object) -> Scenario:
    awake = goal(pools)
    wanted = replace(awake, pools=tuple(replace(p, min_replicas=low) for p in awake.pools), idle_after_s=IDLE_S)
    return scenario(wanted, start_up=StartUp(mean_s=START_UP_S, cv=0.0), **changes)


def bursts() -> list[Arrival]:
    """Half a minute of traffic after 60 s of nothing, and again twenty minutes later."""
    burst = poisson(2, 30, 7)
    return [replace(a, time_s=a.time_s + at_s) for at_s in (60.0, 1260.0) for a in burst]


def sizes(result: FleetResult, from_s: float, to_s: float) -> set[int]:
    return {sum(m.desired.values()) for m in result.moments if from_s <= m.time_s < to_s}


@pytest.mark.parametrize("pools", [SPLIT, (Pool.MIXED,)])
def test_nothing_is_lost_and_the_first_request_waits_for_one_start_up(pools: tuple[Pool, ...]) -> None:
    result = run(sleepy(pools), bursts())
    assert {r.outcome for r in result.requests} == {Outcome.OK}
    first = result.requests[0]
    assert first.ttft_s is not None
    assert START_UP_S < first.ttft_s < START_UP_S + 3.0, "woken within a second or two"
    assert 0 not in sizes(result, 75.0, 200.0)
    reasons = [d.reason for d in result.decisions]
    assert reasons.count(Reason.WAKING) == 2
    assert reasons.count(Reason.SCALED_TO_ZERO) == 1
    (slept_s,) = [d.time_s for d in result.decisions if d.reason == Reason.SCALED_TO_ZERO]
    ended_s = max(r.ended_s or 0.0 for r in result.requests if r.asked.time_s < 100.0)
    assert IDLE_S <= slept_s - ended_s <= IDLE_S + 15.0
    assert sizes(result, slept_s + 1.0, 1259.0) == {0}


def test_it_costs_the_gpus_of_the_time_awake_only() -> None:
    asleep, awake = run(sleepy(), bursts()), run(sleepy(low=1), bursts())
    hours = [sum(result.gpu_hours.values()) for result in (asleep, awake)]
    assert hours[0] < 0.5 * hours[1]


def test_a_pause_shorter_than_the_idle_time_is_slept_through_by_nobody() -> None:
    trace = [replace(a, time_s=a.time_s + at_s) for at_s in (0.0, 150.0, 250.0) for a in poisson(2, 30, 8)]
    result = run(sleepy(initial=dict.fromkeys(SPLIT, 1)), trace)
    assert Reason.SCALED_TO_ZERO not in {d.reason for d in result.decisions}
