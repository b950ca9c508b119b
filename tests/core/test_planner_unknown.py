"""Partly missing metrics: what was not seen is not idle. Nothing shrinks on it; what is known may ask for more."""

from dataclasses import replace
from typing import Any

import pytest

from llmservice_core.model import Observation, Pool, PoolSeen, Reason
from llmservice_core.planner import plan, stabilization_s
from tests.core.test_planner import NOW, decide, goal, memory, observation, pool_goal, reasons, seen

P, D, M = Pool.PREFILL, Pool.DECODE, Pool.MIXED
MIXED = goal(pools=(pool_goal(M),))


def quiet(*pools: PoolSeen, **changes: Any) -> Observation:
    """No request for a minute, and eight replicas of each pool unless said otherwise."""
    return observation(*(pools or (seen(P, 8), seen(D, 8))), rps=0.0, **changes)


def decode(**changes: Any) -> Observation:
    return quiet(seen(P, 1), seen(D, 8, **changes))


def prefill(**changes: Any) -> Observation:
    return quiet(seen(P, 8, **changes.pop("pool", {})), seen(D, 1), **changes)


HELD = {
    "no engine says how many decode": (D, decode(running_decodes=None), "how many requests decode"),
    "no engine says how many wait for decode": (D, decode(waiting=None), "how many requests decode"),
    "some decode, their width is unknown": (D, decode(running_decodes=40.0, limits=None), "40 requests decode"),
    "an engine is not scraped": (D, decode(unscraped=1), "1 of 8 Ready engines not scraped"),
    "no router says how much waits": (P, prefill(waiting_prompt_tokens=None), "how many prompt tokens wait"),
    "prompts wait, their cost is unknown": (
        P,
        prefill(waiting_prompt_tokens=900.0, pool={"limits": None}),
        "900 prompt tokens wait",
    ),
    "a router is not scraped, prefill": (P, prefill(unscraped_routers=1), "1 of the Ready routers not scraped"),
    "a router is not scraped, decode": (D, quiet(unscraped_routers=1), "1 of the Ready routers not scraped"),
}


@pytest.mark.parametrize("name", HELD)
def test_what_nobody_saw_keeps_the_pool_that_it_may_fill(name: str) -> None:
    pool, observed, words = HELD[name]
    got, _ = decide(observed)
    (its,) = [p for p in got.pools if p.pool is pool]
    assert its.replicas == 8
    assert its.reason in (Reason.METRICS_MISSING, Reason.CAPACITY_UNKNOWN)
    assert words in its.message
    assert its.message.startswith("8: not reduced: ")
    (step,) = [s for s in got.steps if s.name == "unknown"]
    assert step.sizes[pool] == 8.0


GOES = {
    "nothing decodes": (D, decode(running_decodes=0.0, limits=None)),
    "no engine runs that could": (
        D,
        decode(running_decodes=None, waiting=None, ready=0, starting=0, unschedulable=8),
    ),
    "the prefill pool does not ask who decodes": (P, prefill(pool={"running_decodes": None, "waiting": None})),
    "nor which of its engines is scraped: routers know what waits": (P, prefill(pool={"unscraped": 8})),
    "nothing waits, whatever it would cost": (P, prefill(pool={"limits": None})),
    "the decode pool does not ask which prompts wait": (D, quiet(waiting_prompt_tokens=None)),
}


@pytest.mark.parametrize("name", GOES)
def test_what_is_known_for_certain_shrinks(name: str) -> None:
    pool, observed = GOES[name]
    assert reasons(decide(observed)[0])[pool] == (1, Reason.DEMAND_DOWN)


def test_a_mixed_pool_asks_both() -> None:
    for change in ({"running_decodes": None}, {"running_decodes": 9.0, "limits": None}, {"unscraped": 2}):
        got, _ = decide(quiet(seen(M, 8, **change)), MIXED)
        assert reasons(got)[M] == (8, Reason.CAPACITY_UNKNOWN)
    got, _ = decide(quiet(seen(M, 8), waiting_prompt_tokens=None), MIXED)
    assert reasons(got)[M] == (8, Reason.METRICS_MISSING)
    got, _ = decide(quiet(seen(M, 8, waiting=None)), MIXED)
    assert reasons(got)[M] == (1, Reason.DEMAND_DOWN), "what waits in a mixed engine are prompts: routers know them"


def test_long_answers_on_engines_that_nobody_scrapes() -> None:
    """A minute without arrivals, while answers still run on engines that are not scraped: at no time fewer than 8."""
    known = memory()
    for tick in range(40):
        now = NOW + 15.0 * tick
        got, known = plan(goal(), replace(decode(running_decodes=None), newest_sample_s=now), known, now)
        assert got.replicas(D) == 8
    seen_again = replace(decode(), newest_sample_s=NOW + 600.0)
    got, known = plan(goal(), seen_again, known, NOW + 600.0)
    assert reasons(got)[D] == (8, Reason.STABILIZING), "nor at once when they are"
    got, _ = plan(goal(), replace(seen_again, newest_sample_s=NOW + 660.0), known, NOW + 660.0)
    assert got.replicas(D) == 1


@pytest.mark.parametrize("change", [{"unscraped_routers": 1}, {"waiting_prompt_tokens": None}])
def test_growth_goes_on_with_what_is_known(change: dict[str, Any]) -> None:
    got, _ = decide(observation(rps=20.0, **change))
    assert reasons(got) == {P: (3, Reason.DEMAND_UP), D: (6, Reason.DEMAND_UP)}


def test_half_the_arrivals_are_no_reason_to_halve_the_pools() -> None:
    """10 of 20 req/s are seen, for one router of two is not scraped."""
    got, _ = decide(observation(seen(P, 3), seen(D, 6), rps=10.0, unscraped_routers=1))
    assert reasons(got) == {P: (3, Reason.METRICS_MISSING), D: (6, Reason.METRICS_MISSING)}


class TestBudget:
    def test_an_unknown_pool_gives_nothing_away(self) -> None:
        """Prefill wants 5 of 6 GPUs and would weigh more; the four replicas of unknown use are not shared out."""
        unknown = observation(seen(P, 2), seen(D, 4, limits=None), rps=40.0)
        got, _ = decide(unknown, goal(gpu_budget=6), memory(learned={P: memory().learned[P]}))
        assert reasons(got) == {P: (2, Reason.BUDGET_LIMITED), D: (4, Reason.CAPACITY_UNKNOWN)}

    def test_nor_one_whose_known_part_is_just_what_it_has(self) -> None:
        """u_D 3.11 + .35 sqrt = 3.73 of what is scraped: four are wanted at least."""
        part = observation(seen(P, 2), seen(D, 4, unscraped=1), rps=14.0, waiting_prompt_tokens=3e7)
        got, _ = decide(part, goal(gpu_budget=6))
        assert (got.replicas(P), got.replicas(D)) == (2, 4)

    def test_a_lowered_budget_cuts_it_and_says_so(self) -> None:
        blind = observation(seen(P, 1), seen(D, 4), problem="Prometheus is away")
        got, _ = decide(blind, goal(gpu_budget=4))
        assert reasons(got) == {P: (1, Reason.METRICS_MISSING), D: (3, Reason.BUDGET_LIMITED)}
        assert got.pools[1].message.startswith("4 -> 3: 4 wanted, gpuBudget 4")
        assert got.pools[1].message.endswith("; Prometheus is away")

    def test_also_where_pods_find_no_node(self) -> None:
        blind = observation(seen(P, 1), seen(D, 4, ready=3, unschedulable=1), problem="Prometheus is away")
        got, _ = decide(blind, goal(gpu_budget=4))
        assert reasons(got)[D] == (3, Reason.BUDGET_LIMITED)

    def test_a_lowered_maximum_says_so_too(self) -> None:
        blind = observation(seen(P, 1), seen(D, 4), problem="Prometheus is away")
        got, _ = decide(blind, goal(pools=(pool_goal(P), pool_goal(D, high=3))))
        assert reasons(got)[D] == (3, Reason.AT_MAXIMUM)


class TestStartUp:
    """A start-up time of days, whoever measured it, must not stop the planner for days."""

    DAYS = 259_200.0

    def test_auto_stabilization_ends_at_half_an_hour(self) -> None:
        assert stabilization_s(goal(), observation(start_up_s=self.DAYS)) == 1800.0
        assert stabilization_s(goal(stabilization_s=7200.0), observation(start_up_s=self.DAYS)) == 7200.0, "as stated"

    def test_a_backlog_is_gone_after_half_an_hour(self) -> None:
        """10^8 tokens are 4950 s of work: 2.75 replicas for 1800 s, beside .5 that arrive."""
        got, _ = decide(observation(rps=5.0, waiting_prompt_tokens=1e8, start_up_s=self.DAYS))
        assert reasons(got)[P] == (4, Reason.BACKLOG)
        assert "to be done in 1800 s" in got.pools[0].message


class TestLoad:
    def test_it_is_that_of_the_fullest_pool(self) -> None:
        got, _ = decide(observation(seen(P, 1), seen(D, 6), rps=10.0))
        assert got.load == pytest.approx(got.inputs["prefill.work"])
        got, _ = decide(observation(seen(P, 6), seen(D, 2), rps=10.0))
        assert got.load == pytest.approx((got.inputs["decode.work"] or 0.0) / 2)

    def test_one_unknown_pool_may_be_the_fullest(self) -> None:
        got, _ = decide(observation(seen(P, 1), seen(D, 1, limits=None), rps=10.0))
        assert got.load is None
        got, _ = decide(observation(seen(P, 1), seen(D, 1, ready=0, starting=1), rps=10.0))
        assert got.load is None
