"""Policy slai-plus, decision by decision: which decodes ride, how wide a step is, who pauses for whom."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.bulk import Bulk, Pace
from llmservice_core.latency import Work
from llmservice_core.policy_plus import Plus
from llmservice_core.steps import Mode, StepPlan, Task
from tests.core.scenes import RELAXED, STRICT, chunks, decode, names, prompt, queued, step_s, view

BULK = Bulk()


def plan(*decodes: Task, bulk: Bulk = BULK, **scene: Any) -> StepPlan:
    plus = Plus(bulk)
    return plus.plan(view(plus, *decodes, **scene))


def test_without_prompts_every_decode_runs_most_urgent_first() -> None:
    found = plan(decode("a"), decode("b", ago_s=0.2), decode("c", tbt_s=None))
    assert (found.mode, names(found.serve), found.waits, found.chunks) == (Mode.DECODE, ["c", "b", "a"], [], ())


def test_relaxed_decodes_wait_and_strict_ones_ride_along() -> None:
    found = plan(decode("a"), decode("b", tbt_s=STRICT), decode("c", tbt_s=None), waiting=[prompt("p", 600)])
    assert found.mode is Mode.PREFILL
    assert (set(names(found.serve)), names(found.waits)) == ({"b", "c"}, ["a"])
    assert chunks(found) == [("p", 600)]


def test_a_step_is_no_wider_than_the_first_prompt_needs_in_tiles() -> None:
    def width(tokens: int) -> int:
        return sum(n for _, n in plan(waiting=[prompt("p", tokens), prompt("long", 5000)]).chunks)

    assert [width(n) for n in (10, 256, 257, 500, 700, 4000)] == [256, 256, 384, 512, 768, 768]


def test_however_many_strict_decodes_ride_along_a_tile_is_left_for_prompts() -> None:
    """Their tokens are late already: the step is the narrowest there is, and prompts must not starve."""
    riding = [decode(str(i), tbt_s=STRICT, ago_s=1.0) for i in range(300)]
    assert chunks(plan(*riding, waiting=[prompt("p", 900)], budget_tokens=2048)) == [("p", 212)]
    assert chunks(plan(*riding, waiting=[prompt("p", 900)], budget_tokens=310)) == [("p", 10)]


def test_when_the_relaxed_are_due_all_decodes_run_in_one_step() -> None:
    late = [decode(str(i), ago_s=0.41) for i in range(40)]
    found = plan(*late, waiting=[prompt("p", 600)], step_s=lambda w: 2 * step_s(w) + 1e-3 * w.decodes)
    assert found.mode is Mode.DECODE
    assert len(found.serve) == 40


def test_a_step_narrows_so_that_it_ends_before_they_are_due() -> None:
    """0.425 s after their last token; a decode step of all lasts 6.5 ms, so 44 ms are left for prompts."""
    found = plan(*(decode(str(i), ago_s=0.374) for i in range(3)), waiting=[prompt("p", 5000)])
    assert found.mode is Mode.PREFILL
    assert sum(n for _, n in found.chunks) == 384
    assert found.predicted_s is not None
    assert found.predicted_s <= found.slack_s


def test_a_started_prompt_pauses_for_a_shorter_one() -> None:
    found = plan(started=[prompt("begun", 5000, computed=512)], waiting=[prompt("p", 100)])
    assert chunks(found) == [("p", 100), ("begun", 156)]


def test_and_goes_on_when_less_of_it_remains() -> None:
    found = plan(started=[prompt("begun", 5000, computed=4950)], waiting=[prompt("p", 100)])
    assert chunks(found) == [("begun", 50), ("p", 100)]


def test_a_strict_prompt_goes_first_however_long() -> None:
    assert chunks(plan(waiting=[prompt("p", 100), prompt("strict", 600, tbt_s=STRICT)]))[0][0] == "strict"


def test_priority_goes_before_everything_but_a_broken_stream() -> None:
    scene = [prompt("p", 100), prompt("urgent", 600, priority=-1), prompt("broken", 700, produced=2)]
    assert [name for name, _ in chunks(plan(waiting=scene, budget_tokens=768))] == ["broken", "urgent"]
    assert queued(Plus(), *scene) == ["broken", "urgent", "p"]


def test_a_full_cache_keeps_long_prompts_out_and_lets_short_ones_pass() -> None:
    """3 % of 100,000 tokens are kept from prompts of 4,000; 300 tokens are kept from a prompt of 400."""
    scene = [prompt("long", 4000, tbt_s=0.4), prompt("short", 400)]
    assert [name for name, _ in chunks(plan(decode("d"), waiting=scene, free_tokens=6_900))] == ["short"]
    assert [name for name, _ in chunks(plan(decode("d"), waiting=scene, free_tokens=7_000))] == ["long"]


def test_nothing_is_kept_from_a_strict_prompt_and_nobody_takes_the_memory_that_it_waits_for() -> None:
    scene = [prompt("strict", 4000, tbt_s=STRICT), prompt("short", 400)]
    assert [name for name, _ in chunks(plan(decode("d"), waiting=scene, free_tokens=4_000))] == ["strict"]
    assert plan(decode("d"), waiting=scene, free_tokens=3_999).chunks == ()


def test_an_empty_engine_keeps_nothing_for_anybody() -> None:
    """Else a prompt as long as the cache would wait for ever."""
    assert chunks(plan(waiting=[prompt("p", 4000)], free_tokens=4_000))[0][0] == "p"
    assert plan(waiting=[prompt("p", 4000)], free_tokens=3_999).chunks == ()


def test_what_the_prefix_cache_holds_needs_no_step() -> None:
    rows = [prompt("a", 1000), prompt("b", 1100), prompt("c", 3100)]
    found = plan(waiting=rows, cached=lambda p: p.known - 100)
    assert chunks(found) == [("a", 100), ("b", 100), ("c", 56)]


def test_without_a_seat_nobody_is_admitted_but_who_started_goes_on() -> None:
    found = plan(started=[prompt("begun", 900, computed=100)], waiting=[prompt("p", 100)], seats=0)
    assert [name for name, _ in chunks(found)] == ["begun"]


@pytest.mark.parametrize("computed", [0, 10])
def test_an_overdue_prompt_goes_before_all_others_waiting_or_started(computed: int) -> None:
    old = prompt("old", 600, waits=90, computed=computed, is_overdue=True)
    others = [prompt("short", 100), prompt("strict", 300, tbt_s=STRICT)]
    scene = {"started": [old], "waiting": others} if computed else {"waiting": [*others, old]}
    assert [name for name, _ in chunks(plan(**scene))] == ["old", "strict"]


def test_nobody_takes_the_memory_that_an_overdue_prompt_waits_for() -> None:
    old, short = prompt("old", 6000, waits=90, is_overdue=True), prompt("short", 100)
    assert plan(decode("d"), waiting=[old, short], free_tokens=5_999).chunks == ()


def test_a_late_prompt_stands_behind_those_that_can_still_be_in_time_but_not_for_ever() -> None:
    late, on_time = prompt("late", 50, waits=2, ttft_s=1.0), prompt("on time", 400, ttft_s=1.0)
    overdue = prompt("overdue", 700, waits=90, ttft_s=1.0, is_overdue=True)
    assert [name for name, _ in chunks(plan(waiting=[late, on_time]))] == ["on time", "late"]
    assert [name for name, _ in chunks(plan(waiting=[late, on_time, overdue]))] == ["overdue", "on time"]


def test_what_each_of_the_two_orders_is_worth_can_be_measured_without_it() -> None:
    waiting = [prompt("p", 100), prompt("strict", 600, tbt_s=STRICT)]
    assert chunks(plan(waiting=waiting, bulk=Bulk(strict_first=False)))[0][0] == "p"
    late, on_time = prompt("late", 50, waits=2, ttft_s=1.0), prompt("on time", 400, ttft_s=1.0)
    seen = chunks(plan(waiting=[late, on_time], bulk=Bulk(late_last=False)))
    assert [name for name, _ in seen] == ["late", "on time"]


def test_with_a_full_cache_and_free_mixing_decodes_come_along() -> None:
    scene: dict[str, Any] = {"waiting": [prompt("p", 600)], "free_tokens": 10_000}
    decodes = [decode(str(i), kv=900) for i in range(90)]
    assert plan(*decodes, **scene).mode is Mode.MIXED
    dear = plan(*decodes, **scene, step_s=lambda w: step_s(w) * (2.0 if w.new_tokens and w.decodes else 1.0))
    assert dear.mode is Mode.PREFILL


class TestADecodePool:
    """No prompts; a step of all 200 decodes lasts 105 ms, and 85 ms are what a strict user leaves."""

    def test_the_relaxed_take_turns_when_a_full_step_would_be_late_for_the_strictest(self) -> None:
        strict = [decode(f"s{i}", tbt_s=STRICT) for i in range(20)]
        relaxed = [decode(f"r{i:03}", ago_s=i / 1000) for i in range(180)]
        found = plan(*relaxed, *strict)
        assert found.predicted_s is not None
        assert found.predicted_s <= 0.085
        assert set(names(strict)) < set(names(found.serve))
        assert len(found.serve) == 160
        assert names(found.waits) == [f"r{i:03}" for i in range(39, -1, -1)], "who was served last waits"

    def test_only_then(self) -> None:
        strict = [decode(f"s{i}", tbt_s=STRICT) for i in range(20)]
        assert plan(*strict, *(decode(str(i)) for i in range(140))).waits == []
        assert plan(*(decode(str(i)) for i in range(200))).waits == []

    def test_it_is_asked_for_only_near_the_strictest_target(self) -> None:
        plus = Plus()
        assert plus.wants_pure_decode(0.08, STRICT)
        assert not plus.wants_pure_decode(0.05, STRICT)
        assert not plus.wants_pure_decode(9.0, None)


def test_until_step_times_are_known_slais_order_holds() -> None:
    found = plan(decode("d", latest_start_s=1.0), waiting=[prompt("p", 600)], step_s=None)
    assert (names(found.later), found.is_open) == (["d"], True)


running = st.builds(
    decode,
    st.uuids().map(str),
    ago_s=st.floats(0, 0.6),
    tbt_s=st.sampled_from([None, STRICT, RELAXED, 2.0]),
    kv=st.integers(1, 5000),
)
targets = st.sampled_from([None, STRICT, RELAXED])
ttfts = st.sampled_from([None, 0.05, 10.0])
fresh = st.builds(prompt, st.uuids().map(str), st.integers(1, 8000), tbt_s=targets, ttft_s=ttfts)
begun = st.builds(prompt, st.uuids().map(str), st.integers(100, 8000), computed=st.integers(1, 99), ttft_s=ttfts)


@settings(deadline=None, max_examples=300)
@given(
    decodes=st.lists(running, max_size=60),
    started=st.lists(begun, max_size=4),
    waiting=st.lists(fresh, max_size=12),
    free=st.integers(0, 100_000),
    seats=st.integers(0, 20),
)
def test_no_plan_is_over_budget_or_over_memory_or_empty_while_something_could_run(
    decodes: list[Task], started: list[Task], waiting: list[Task], free: int, seats: int
) -> None:
    found = plan(*decodes, started=started, waiting=waiting, free_tokens=free, seats=seats)
    new = [p for p, _ in found.chunks if not p.is_started]
    if found.mode is not Mode.DECODE:
        assert len(found.serve) + sum(n for _, n in found.chunks) <= found.budget_tokens <= 768
    assert sum(p.known for p in new) <= free
    assert len(new) <= seats
    assert all(0 < n <= p.remaining for p, n in found.chunks)
    assert sorted(names([*found.serve, *found.waits])) == sorted(names(decodes))
    assert {d for d in decodes if d.tbt_s is None} <= set(found.serve)
    fits = seats > 0 and any(p.known <= free for p in waiting)
    assert found.serve or found.chunks or not (decodes or started or fits)


def test_what_steps_really_take_is_learned_and_a_stop_of_the_machine_is_not() -> None:
    plus = Plus()
    for _ in range(300):
        plus.stepped(Work(new_tokens=10), 0.05 * 1.15, 0.05)
    assert plus.pace.ratio == pytest.approx(1.15, rel=0.01)
    assert plus.pace.learn(0.05, 60.0).ratio < 1.25
    assert Pace(ratio=1.15).learn(0.0, 1.0).ratio == pytest.approx(1.15)
    assert math.isfinite(plus.pace.ratio)
