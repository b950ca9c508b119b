"""Policy slai-plus, decision by decision: which decodes ride, how wide a step is, who pauses for whom."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.bulk import Bulk, Mode, Pace, Running, View, Waiting
from llmservice_core.latency import Work

BULK = Bulk()
STRICT, RELAXED = 0.1, 0.5


def step_s(w: Work) -> float:
    """5 ms, 0.1 ms per prompt token (76.8 ms at the widest), 0.5 ms per decode; mixing is free."""
    return 0.005 + 1e-4 * w.new_tokens + 5e-4 * w.decodes


def decode(place: int, *, ago_s: float = 0.0, tbt_s: float | None = RELAXED, kv: int = 500) -> Running:
    return Running(-ago_s, tbt_s, kv, place)


def prompt(place: int, tokens: int, *, computed: int = 0, tbt_s: float | None = RELAXED, waits: float = 0.1) -> Waiting:
    return Waiting(tokens, computed, -waits, tbt_s, place, computed > 0)


def view(*decodes: Running, started: tuple[Waiting, ...] = (), waiting: tuple[Waiting, ...] = ()) -> View:
    return View(
        now_s=0.0,
        decodes=decodes,
        started=started,
        waiting=sorted(waiting, key=lambda p: p.key),
        overdue=None,
        short_tokens=500,
        free_tokens=80_000,
        total_tokens=100_000,
        seats=100,
        budget_tokens=768,
        step_s=step_s,
    )


def test_without_prompts_every_decode_runs_most_urgent_first() -> None:
    plan = BULK.plan(view(decode(1), decode(2, ago_s=0.2), decode(3, tbt_s=None)))
    assert (plan.mode, plan.decodes, plan.chunks) == (Mode.DECODE, (3, 2, 1), ())


def test_relaxed_decodes_wait_and_strict_ones_ride_along() -> None:
    plan = BULK.plan(view(decode(1), decode(2, tbt_s=STRICT), decode(3, tbt_s=None), waiting=(prompt(9, 600),)))
    assert plan.mode is Mode.PREFILL
    assert set(plan.decodes) == {2, 3}
    assert [(p.place, n) for p, n in plan.chunks] == [(9, 600)]


def test_a_step_is_no_wider_than_the_first_prompt_needs_in_tiles() -> None:
    def width(tokens: int) -> int:
        long = prompt(8, 5000)
        return sum(n for _, n in BULK.plan(view(waiting=(prompt(9, tokens), long))).chunks)

    assert [width(n) for n in (10, 256, 257, 500, 700, 4000)] == [256, 256, 384, 512, 768, 768]


def test_when_the_relaxed_are_due_all_decodes_run_in_one_step() -> None:
    late = [decode(i, ago_s=0.41, tbt_s=RELAXED) for i in range(40)]
    plan = BULK.plan(
        replace(view(*late, waiting=(prompt(99, 600),)), step_s=lambda w: 2 * step_s(w) + 1e-3 * w.decodes)
    )
    assert plan.mode is Mode.DECODE
    assert len(plan.decodes) == 40


def test_a_step_narrows_so_that_it_ends_before_they_are_due() -> None:
    """0.425 s after their last token; a decode step of all lasts 6.5 ms, so 44 ms are left for prompts."""
    waiting = [decode(i, ago_s=0.374) for i in range(3)]
    plan = BULK.plan(view(*waiting, waiting=(prompt(99, 5000),)))
    assert plan.mode is Mode.PREFILL
    assert sum(n for _, n in plan.chunks) == 384
    assert plan.predicted_s <= plan.slack_s


def test_a_started_prompt_pauses_for_a_shorter_one() -> None:
    plan = BULK.plan(view(started=(prompt(7, 5000, computed=512),), waiting=(prompt(9, 100),)))
    assert [(p.place, n) for p, n in plan.chunks] == [(9, 100), (7, 156)]


def test_and_goes_on_when_less_of_it_remains() -> None:
    plan = BULK.plan(view(started=(prompt(7, 5000, computed=4950),), waiting=(prompt(9, 100),)))
    assert [(p.place, n) for p, n in plan.chunks] == [(7, 50), (9, 100)]


def test_a_strict_prompt_goes_first_however_long() -> None:
    plan = BULK.plan(view(waiting=(prompt(9, 100), prompt(8, 600, tbt_s=STRICT))))
    assert next(p.place for p, _ in plan.chunks) == 8


def test_a_full_cache_keeps_long_prompts_out_and_lets_short_ones_pass() -> None:
    """3 % of 100,000 tokens are kept from prompts of 4,000; 300 tokens are kept from a prompt of 400."""
    long, short = prompt(8, 4000, tbt_s=0.4), prompt(9, 400)
    full = replace(view(decode(1), waiting=(long, short)), free_tokens=6_900)
    assert [p.place for p, _ in BULK.plan(full).chunks] == [9]
    assert [p.place for p, _ in BULK.plan(replace(full, free_tokens=7_000)).chunks] == [8]


def test_nothing_is_kept_from_a_strict_prompt_and_nobody_takes_the_memory_that_it_waits_for() -> None:
    full = replace(view(decode(1), waiting=(prompt(8, 4000, tbt_s=STRICT), prompt(9, 400))), free_tokens=4_000)
    assert [p.place for p, _ in BULK.plan(full).chunks] == [8]
    assert BULK.plan(replace(full, free_tokens=3_999)).chunks == ()


def test_an_empty_engine_keeps_nothing_for_anybody() -> None:
    """Else a prompt as long as the cache would wait for ever."""
    v = replace(view(waiting=(prompt(8, 4000),)), free_tokens=4_000)
    assert [p.place for p, _ in BULK.plan(v).chunks] == [8]
    assert BULK.plan(replace(v, free_tokens=3_999)).chunks == ()


def test_without_a_seat_nobody_is_admitted_but_who_started_goes_on() -> None:
    v = replace(view(started=(prompt(7, 900, computed=100),), waiting=(prompt(9, 100),)), seats=0)
    assert [p.place for p, _ in BULK.plan(v).chunks] == [7]


def test_an_overdue_prompt_goes_before_other_long_ones_and_behind_short_ones() -> None:
    old, short = prompt(5, 6000, waits=90), prompt(9, 100)
    v = replace(view(waiting=(short, prompt(8, 3000), old)), overdue=old)
    assert [p.place for p, _ in BULK.plan(v).chunks] == [9, 5]


def test_with_a_full_cache_and_free_mixing_decodes_come_along() -> None:
    decodes = [decode(i, kv=900) for i in range(90)]
    v = replace(view(*decodes, waiting=(prompt(99, 600),)), free_tokens=10_000)
    assert BULK.plan(v).mode is Mode.MIXED
    dear = replace(v, step_s=lambda w: step_s(w) * (2.0 if w.new_tokens and w.decodes else 1.0))
    assert BULK.plan(dear).mode is Mode.PREFILL


running = st.builds(
    decode,
    st.integers(0, 500),
    ago_s=st.floats(0, 0.6),
    tbt_s=st.sampled_from([None, STRICT, RELAXED, 2.0]),
    kv=st.integers(1, 5000),
)
fresh = st.builds(prompt, st.integers(1000, 1500), st.integers(1, 8000), tbt_s=st.sampled_from([None, STRICT, RELAXED]))
started = st.builds(prompt, st.integers(600, 900), st.integers(100, 8000), computed=st.integers(1, 99))


@settings(deadline=None, max_examples=300)
@given(
    decodes=st.lists(running, max_size=60, unique_by=lambda d: d.place),
    begun=st.lists(started, max_size=4, unique_by=lambda p: p.place),
    waiting=st.lists(fresh, max_size=12, unique_by=lambda p: p.place),
    free=st.integers(0, 100_000),
    seats=st.integers(0, 20),
)
def test_no_plan_is_over_budget_over_memory_or_empty_while_something_could_run(
    decodes: list[Running], begun: list[Waiting], waiting: list[Waiting], free: int, seats: int
) -> None:
    v = replace(view(*decodes, started=tuple(begun), waiting=tuple(waiting)), free_tokens=free, seats=seats)
    plan = BULK.plan(v)
    new = [p for p, _ in plan.chunks if not p.is_started]
    if plan.mode is not Mode.DECODE:
        assert len(plan.decodes) + sum(n for _, n in plan.chunks) <= v.budget_tokens
    assert sum(p.tokens for p in new) <= free
    assert len(new) <= seats
    assert all(0 < n <= p.remaining for p, n in plan.chunks)
    assert len(set(plan.decodes)) == len(plan.decodes)
    assert {d.place for d in decodes if d.tbt_s is None} <= set(plan.decodes)
    fits = seats > 0 and any(p.tokens <= free for p in waiting)
    assert plan.decodes or plan.chunks or not (decodes or begun or fits)


def test_what_steps_really_take_is_learned_and_a_stop_of_the_machine_is_not() -> None:
    pace = Pace()
    for _ in range(300):
        pace = pace.learn(0.05, 0.05 * 1.15)
    assert pace.ratio == pytest.approx(1.15, rel=0.01)
    assert pace.learn(0.05, 60.0).ratio < 1.25
    assert pace.learn(0.0, 1.0).ratio == pytest.approx(pace.ratio)
    assert math.isfinite(pace.ratio)
