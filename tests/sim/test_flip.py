"""A flip in the simulated cluster: the pod drains, then serves in the other pool after seconds, on the same GPU."""

import pytest

from llmservice_core.model import Flip, Plan, Reason
from llmservice_sim.fast_fleet import FastFleet
from llmservice_sim.fleet import Fleet
from llmservice_sim.fleet_requests import Outcome
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.fleet_settings import StartUp
from llmservice_sim.laws import Sizing, View, law_of
from tests.sim.fleets import SPLIT, goal, poisson, scenario

P, D = SPLIT
AT_S = 30.0


class Lender:
    """Two prefill replicas and one for decode; from `AT_S` on one and two, by a flip or without."""

    name = "lender"

    def __init__(self, flips: bool) -> None:
        self._flips = flips

    def decide(self, view: View) -> Sizing:
        if view.now_s < AT_S:
            return Sizing(sizes={P: 2, D: 1})
        flip = Flip(source=P, target=D, count=1, why="") if self._flips and view.now_s == AT_S else None
        made = Plan(time_s=view.now_s, pools=(), reason=Reason.STEADY, message="", flip=flip)
        return Sizing(sizes={P: 1, D: 2}, plan=made)


def lent(fleet: type[Fleet], flips: bool) -> FleetResult:
    settings = scenario(goal(), initial={P: 2, D: 1}, start_up=StartUp(mean_s=300.0, cv=0.0))
    return fleet(settings, Lender(flips)).run(poisson(4, 120, 1))


@pytest.mark.parametrize("fleet", [Fleet, FastFleet])
def test_it_serves_in_the_other_pool_within_seconds(fleet: type[Fleet]) -> None:
    with_flip, without = lent(fleet, True), lent(fleet, False)
    ready = {m.time_s: (m.ready[P], m.ready[D]) for m in with_flip.moments}
    assert ready[AT_S] == (2, 1)
    assert ready[AT_S + 15] == (1, 2)
    assert {m.ready[D] for m in without.moments} == {1}
    assert {m.gpus for m in with_flip.moments} == {3}
    assert all(r.outcome is Outcome.OK for r in with_flip.requests)


def test_the_law_is_known_by_its_name() -> None:
    assert law_of("rad-flips", goal(), {}, {}).name == "rad-flips"
