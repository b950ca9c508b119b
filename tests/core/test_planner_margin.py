"""What the plan learns from lasting misses and from none, what it expects of the next start-up, and its switches."""

import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest

from llmservice_core.model import Attainment, Observation, Plan, Pool, Reason
from llmservice_core.planner import plan
from llmservice_core.planner_facts import Settings
from llmservice_core.planner_feedback import BUDGET_HALF_LIFE_S, UNSETTLED_SHARE
from llmservice_core.planner_forecast import Errors, at, continued, learned_errors, trend
from llmservice_core.planner_memory import Memory
from llmservice_core.queueing import late_share, punctual
from tests.core.test_planner import LIMITS, NOW, TAU_P, goal, memory, observation, seen, traffic

TICK_S = 15.0
HOUR = 240
"""Ticks."""


def missing(share: float, rps: float, waiting: float, prefill: int, at_s: float) -> Observation:
    """A batch class that misses its TTFT with a queue in front of `prefill` replicas that all serve."""
    ttft = Attainment(target_s=30, events=500, good=share * 500)
    return observation(
        seen(Pool.PREFILL, prefill),
        seen(Pool.DECODE, 4),
        classes=(traffic("interactive", 0.0), replace(traffic("batch", rps), ttft=ttft)),
        waiting_prompt_tokens=waiting,
        newest_sample_s=at_s,
    )


def followed(ticks: int, share: float, rps: float, queue_s: float, start: int) -> list[int]:
    """Sizes of a prefill pool that gets what each plan says, pods Ready at once, under the same misses and queue."""
    known, size, sizes = memory(), start, []
    for tick in range(ticks):
        now = NOW + TICK_S * tick
        made, known = plan(goal(), missing(share, rps, queue_s * size / TAU_P, size, now), known, now)
        size = made.replicas(Pool.PREFILL) or 0
        sizes.append(size)
    return sizes


class TestLastingMisses:
    def test_a_queue_that_lasts_is_no_excuse(self) -> None:
        """u_P 2.48, three replicas, 0.5 s queued in each for ever: too little for the backlog step to ask for more."""
        sizes = followed(HOUR, 0.80, 25.0, 0.5, 3)
        assert sizes[0] == 3
        assert sizes[-1] > 3

    def test_what_many_requests_barely_miss_is_learned_in_minutes_and_met_is_not(self) -> None:
        assert followed(4, 0.93, 25.0, 0.5, 3)[-1] == 3
        assert followed(20, 0.93, 25.0, 0.5, 3)[-1] == 4
        assert followed(HOUR, 0.96, 25.0, 0.5, 3)[-1] == 3

    def test_a_miss_counts_by_how_far_it_is_beyond_chance(self) -> None:
        """7 % late instead of 5: of 500 requests that is .4 x sqrt(.05 x 500) deviations, of 60 .4 x sqrt(3)."""
        margins = []
        for rps, size in ((25.0, 3), (1.0, 1)):
            _, known = plan(goal(), missing(0.93, rps, 0.5 * size / TAU_P, size, NOW), memory())
            margins.append(known.margins[Pool.PREFILL])
        assert margins[0] / margins[1] == pytest.approx(5.0 / math.sqrt(0.05 * 60.0))

    def test_misses_that_no_replica_can_mend_stop_at_a_pool_that_hardly_queues(self) -> None:
        """u_P .50: with three replicas less than 5 % of the prompts find all busy: no queue is to blame."""
        assert max(followed(4 * HOUR, 0.50, 5.0, 0.0, 1)) == 3

    def test_a_quarter_is_learned_while_a_pod_starts_and_nothing_without_room_for_it(self) -> None:
        """The promise counts what is missed then, too; but of a full cluster it says nothing about the law."""
        margins = []
        for seen_so in ({}, {"ready": 3, "starting": 1}, {"ready": 3, "unschedulable": 1}):
            late = missing(0.2, 25.0, 0.0, 4, NOW)
            pools = (seen(Pool.PREFILL, 4, **seen_so), *late.pools[1:])
            _, known = plan(goal(), replace(late, pools=pools), memory())
            margins.append(known.margins.get(Pool.PREFILL, 0.0))
        assert margins[1] == pytest.approx(UNSETTLED_SHARE * margins[0])
        assert margins[2] == 0.0

    def test_a_quarter_is_learned_from_the_time_of_a_backlog(self) -> None:
        """Until the window of 60 s lies wholly after it. The pods that the backlog needs are asked for first."""
        _, known = plan(goal(), missing(0.2, 5.0, 1e6, 1, NOW), memory())
        learned = [known.margins.get(Pool.PREFILL, 0.0)]
        for tick in range(1, 6):
            now = NOW + TICK_S * tick
            _, known = plan(goal(), missing(0.2, 5.0, 0.0, 1, now), known, now)
            learned.append(known.margins[Pool.PREFILL])
        steps = [b - a for a, b in pairwise(learned)]
        assert learned[0] == 0.0
        assert [step / steps[-1] for step in steps] == pytest.approx([0.25, 0.25, 0.25, 1.0, 1.0], rel=1e-4)

    @pytest.mark.parametrize(("late_before", "is_counted"), [(60.0, False), (80.0, True)])
    def test_a_miss_counts_once_the_error_budget_is_nearly_spent(self, late_before: float, is_counted: bool) -> None:
        """5 % of 2,000 requests may be late: 100, with those 10 that are assumed at first 110; 0.7 of that are 77."""
        known = memory(spent={Pool.PREFILL: {"batch TTFT 30": (late_before, 2000.0)}}, updated_s=NOW)
        made, known = plan(goal(), missing(0.9, 25.0, 0.0, 4, NOW + TICK_S), known, NOW + TICK_S)
        assert (Pool.PREFILL in known.margins) is is_counted
        assert ("82 % of its error budget spent" in made.pools[0].message) is is_counted
        late, asked = known.spent[Pool.PREFILL]["batch TTFT 30"]
        keep = math.exp2(-TICK_S / BUDGET_HALF_LIFE_S)
        new = 500.0 * TICK_S / 60.0
        assert (late, asked) == pytest.approx((keep * late_before + 0.1 * new, keep * 2000.0 + new), rel=1e-3)

    def test_a_pool_that_asks_for_more_than_it_gets_learns_nothing(self) -> None:
        wanted = goal(gpu_budget=5)
        _, known = plan(wanted, missing(0.2, 60.0, 0.0, 1, NOW), memory())
        assert Pool.PREFILL not in known.margins


class TestStrict:
    @pytest.mark.parametrize(
        ("u", "slack", "allowed", "replicas"),
        [
            pytest.param(0.25, 1.1, 0.05, 1.0, id=".25 exp(-1.65) = .048 of one replica's"),
            pytest.param(0.25, 1.1, 0.01, 1.44, id="one in a hundred: nearly half a replica more"),
            pytest.param(5.0, 0.5, 0.01, 8.1, id="waits of half a service"),
            pytest.param(5.0, 50.0, 0.01, 5.05, id="a TTFT that leaves much time needs no more than the work"),
            pytest.param(0.0, 1.0, 0.01, 0.0, id="no strict prompt"),
        ],
    )
    def test_few_enough_wait_too_long(self, u: float, slack: float, allowed: float, replicas: float) -> None:
        found = punctual(u, slack, allowed)
        assert found == pytest.approx(replicas, abs=0.1)
        assert late_share(u, found, slack) <= allowed

    def test_a_promise_of_a_hundred_per_cent_is_planned_as_one_in_a_thousand(self) -> None:
        assert punctual(1.0, 1.0, 0.0) == punctual(1.0, 1.0, 1e-3)


class TestRelease:
    def test_a_long_time_without_misses_takes_the_law_s_own_margin_back_but_never_the_work(self) -> None:
        """u_D 1.78: 1.78 + .35 sqrt(1.78) = 2.24 replicas, and 1.83 with the forecast's share alone."""
        known, got = memory(), Plan(time_s=NOW, pools=(), reason=Reason.STEADY, message="")
        tbt = Attainment(target_s=0.5, events=5000, good=5000)
        met = (traffic("interactive", 0.0), replace(traffic("batch", 8.0), tbt=tbt))
        sizes = []
        for tick in range(3 * HOUR):
            now = NOW + TICK_S * tick
            watched = observation(seen(Pool.PREFILL), seen(Pool.DECODE, 3), classes=met, newest_sample_s=now)
            got, known = plan(goal(), watched, known, now)
            sizes.append(got.replicas(Pool.DECODE))
        assert (sizes[0], sizes[-1]) == (3, 2)
        assert known.margins[Pool.DECODE] == pytest.approx(-0.5)
        late = replace(met[1], tbt=replace(tbt, good=4000))
        margins = []
        for tick in range(3 * HOUR, 3 * HOUR + 20):
            now = NOW + TICK_S * tick
            watched = observation(seen(Pool.PREFILL), seen(Pool.DECODE, 3), classes=(met[0], late), newest_sample_s=now)
            got, known = plan(goal(), watched, known, now)
            margins.append(known.margins[Pool.DECODE])
        assert margins[0] == pytest.approx(-0.5), "one window of late tokens is what a long good time allows"
        assert margins[-1] > 0.0
        assert "% of its error budget spent" in got.pools[1].message

    @pytest.mark.parametrize(("late_before", "taken"), [(25.0, 0.6 - 35.0 / 110.0), (60.0, 0.0)])
    def test_it_takes_by_what_is_unspent_of_the_error_budget(self, late_before: float, taken: float) -> None:
        """Of 110 late requests that are allowed 35 were late, or 70: more than 0.6 of them."""
        known = memory(spent={Pool.PREFILL: {"batch TTFT 30": (late_before, 2000.0)}}, updated_s=NOW)
        _, known = plan(goal(), missing(1.0, 25.0, 0.0, 4, NOW + TICK_S), known, NOW + TICK_S)
        assert known.margins.get(Pool.PREFILL, 0.0) == pytest.approx(-0.02 * taken, rel=1e-3)

    def test_no_margin_where_wider_batches_break_no_promise(self) -> None:
        """Tile 32: width 32, u_D .74 + .35 sqrt(.74) = 1.04; but 81 fit under the strictest TBT, 24 are there."""
        limits = replace(LIMITS, tile_tokens=32)
        narrow = observation(seen(Pool.PREFILL), seen(Pool.DECODE, 1, limits=limits), rps=2.45)
        assert plan(goal(), narrow, memory())[0].replicas(Pool.DECODE) == 1
        kept = plan(goal(), narrow, memory(), settings=Settings(hard_width=False))[0]
        assert kept.replicas(Pool.DECODE) == 2


class TestForecast:
    def test_the_trend_of_all_work_is_extrapolated_over_the_start_up(self) -> None:
        past = {Pool.PREFILL: ((0.0, 1.0), (100.0, 2.0))}
        now = {Pool.PREFILL: 4.0}
        assert trend(past, 150.0, now, 0.0, 150.0) == pytest.approx(1.5)  # 2.0, bounded
        assert trend(past, 150.0, {Pool.PREFILL: 1.44}, 0.0, 150.0) == pytest.approx(1.2)
        assert trend(past, 150.0, {Pool.PREFILL: 1.44}, 0.5, 150.0) == 1.0  # within chance
        assert trend(past, 150.0, {Pool.PREFILL: 0.5}, 0.0, 150.0) == 1.0
        assert trend(past, 149.0, now, 0.0, 150.0) == 1.0  # nothing known of then

    def test_a_ramp_goes_on_at_the_pace_of_its_later_half(self) -> None:
        """1 -> 1.5 -> 2.25 in 150 s: 2.25 times as much in 150 s more; a jump of the same size goes on by half."""
        ramp = {Pool.PREFILL: ((0.0, 1.0), (75.0, 1.5))}
        jump = {Pool.PREFILL: ((0.0, 1.0), (75.0, 1.0))}
        now = {Pool.PREFILL: 2.25}
        assert trend(ramp, 150.0, now, 0.0, 150.0) == pytest.approx(2.25)
        assert trend(ramp, 150.0, now, 0.0, 300.0) == pytest.approx(3.0)  # 5.06, bounded
        assert trend(jump, 150.0, now, 0.0, 150.0) == pytest.approx(1.5)
        assert trend(ramp, 150.0, now, 0.0, 150.0, ramps=False) == pytest.approx(1.5)
        assert trend(ramp, 150.0, now, 0.2, 150.0) < 2.0  # of which chance explains a part

    def test_a_later_half_counts_up_to_twice_the_earlier_one(self) -> None:
        past = {Pool.PREFILL: ((0.0, 1.0), (75.0, 1.1))}
        assert trend(past, 150.0, {Pool.PREFILL: 1.6}, 0.0, 150.0) == pytest.approx(1.1**4)

    def test_longer_answers_alone_are_no_ramp(self) -> None:
        """Decode grows as a ramp does, prefill not at all: half of what both have grown together, as always."""
        past = {Pool.PREFILL: ((0.0, 1.0), (75.0, 1.0)), Pool.DECODE: ((0.0, 1.0), (75.0, 1.5))}
        now = {Pool.PREFILL: 1.0, Pool.DECODE: 2.24}
        assert trend(past, 150.0, now, 0.0, 150.0) == pytest.approx((3.24 / 2.0) ** 0.5)

    def test_errors_widen_the_margin_and_are_learned_once_for_each_time(self) -> None:
        past = ((0.0, 1.0), (15.0, 1.0))
        errors = learned_errors(Errors(), past, 30.0, 2.0, 30.0)
        assert errors.sigma > Errors().sigma == pytest.approx(0.1)
        assert learned_errors(errors, continued(past, 30.0, 2.0, 30.0), 30.0, 2.0, 30.0) == errors

    def test_the_past_stays_short_and_reaches_back_far_enough(self) -> None:
        past: tuple[tuple[float, float], ...] = ()
        for tick in range(1000):
            past = continued(past, 15.0 * tick, 1.0 + tick, 1800.0)
            assert len(past) <= 20
        assert at(past, 15.0 * 999 - 1800.0) is not None
        assert continued(past, 15.0 * 999, 1000.0, 1800.0) == past

    def test_growth_asks_for_pods_before_they_are_needed(self) -> None:
        was = {Pool.PREFILL: ((NOW - 151.0, 0.3),), Pool.DECODE: ((NOW - 151.0, 0.7),)}
        steady, _ = plan(goal(), observation(rps=6.0, start_up_s=120.0), memory())
        growing, _ = plan(goal(), observation(rps=6.0, start_up_s=120.0), memory(past=was))
        assert growing.replicas(Pool.DECODE) > steady.replicas(Pool.DECODE)  # type: ignore[operator]

    def test_memory_of_before_it_had_a_past_is_still_read(self) -> None:
        text = Memory(started_s=1.0, updated_s=2.0).to_json().replace('"past":{},', "").replace('"errors":{},', "")
        assert Memory.from_json(text) == Memory(started_s=1.0, updated_s=2.0)


@pytest.mark.parametrize("switch", [f.name for f in fields(Settings)])
def test_each_step_can_be_left_out_and_then_asks_for_no_more(switch: str) -> None:
    """But for the two that save: the end of the decode margin, and its release."""
    known = memory(
        past=dict.fromkeys(Pool, ((NOW - 151.0, 0.1),)),
        errors=dict.fromkeys(Pool, Errors(squares=90.0, count=100.0)),
        margins={Pool.PREFILL: 0.8},
        wants=dict.fromkeys(Pool, ((NOW - 10.0, 7),)),
    )
    world = observation(
        seen(Pool.PREFILL, 7), seen(Pool.DECODE, 7), rps=9.0, waiting_prompt_tokens=2e6, start_up_s=120.0
    )
    whole, _ = plan(goal(), world, known)
    without, _ = plan(goal(), world, known, settings=replace(Settings(), **{switch: False}))
    if switch not in ("hard_width", "release"):
        assert sum(whole.steps[-3].sizes.values()) >= sum(without.steps[-3].sizes.values())
        assert sum(p.replicas for p in whole.pools) >= sum(p.replicas for p in without.pools)
