"""Observation -> Plan, no mocks. One class per behaviour; every Reason is reached; the sums are in the docstrings."""

from dataclasses import replace
from typing import Any

import pytest

from llmservice_core.capacity import Learned
from llmservice_core.model import (
    Attainment,
    ClassTraffic,
    EngineLimits,
    Goal,
    Mode,
    Observation,
    Plan,
    Pool,
    PoolGoal,
    PoolSeen,
    Reason,
    ServiceClass,
    Slo,
)
from llmservice_core.planner import plan
from llmservice_core.planner_memory import Memory

NOW = 1_800_000_000.0
INTERACTIVE = ServiceClass(
    name="interactive",
    ttft=Slo(target_s=0.5, percentile=95),
    tbt=Slo(target_s=0.05, percentile=99),
    weight=10.0,
)
BATCH = ServiceClass(
    name="batch", ttft=Slo(target_s=30, percentile=95), tbt=Slo(target_s=0.5, percentile=99), is_default=True
)
LEARNED = Learned(theta=(0.010, 0.0, 0.030, 0.0, 0.00030, 0.00010), attention_per_token=0.0, context_tokens=1000.0)
"""10 ms + 30 us a token + 0.3 ms a decode + 0.1 us a KV token.

Prefill: chunk 512 -> 25.36 ms / 512 = 0.0495 ms a token. Decode, TBT 50 ms x 0.9 = 45 ms: width 81 -> 45 ms / 81.
"""
TAU_P = (0.010 + 0.030 * 0.512) / 512
WIDTH = 81
TAU_D = (0.010 + WIDTH * 0.00043) / WIDTH
LIMITS = EngineLimits(kv_tokens=1e6, max_batched_tokens=512, max_seqs=256, tile_tokens=128)


def goal(**changes: Any) -> Goal:
    pools = changes.pop("pools", (pool_goal(Pool.PREFILL), pool_goal(Pool.DECODE)))
    base = Goal(
        classes=(INTERACTIVE, BATCH),
        pools=pools,
        mode=Mode.AUTO,
        gpu_budget=None,
        interval_s=15.0,
        target_load=0.98,
        stabilization_s=None,
    )
    return replace(base, **changes)


def pool_goal(pool: Pool, low: int = 1, high: int = 8, gpus: int = 1) -> PoolGoal:
    return PoolGoal(pool=pool, min_replicas=low, max_replicas=high, gpus_per_replica=gpus)


def seen(pool: Pool, desired: int = 1, **changes: Any) -> PoolSeen:
    base = PoolSeen(
        pool=pool,
        desired=desired,
        ready=desired,
        starting=0,
        draining=0,
        unschedulable=0,
        limits=LIMITS,
        waiting=0.0,
        running_decodes=0.0,
    )
    return replace(base, **changes)


def traffic(name: str, rps: float | None, prompt: float | None = 2000.0, output: float | None = 400.0) -> ClassTraffic:
    return ClassTraffic(name=name, arrivals_rps=rps, prompt_tokens=prompt, output_tokens=output, ttft=None, tbt=None)


def observation(*pools: PoolSeen, rps: float | None = 0.0, **changes: Any) -> Observation:
    """`rps` goes to the batch class, whose TTFT leaves room for queueing; interactive is silent."""
    base = Observation(
        time_s=NOW,
        newest_sample_s=NOW - 5.0,
        scrape_gap_s=5.0,
        window_s=60.0,
        classes=(traffic("interactive", 0.0), traffic("batch", rps)),
        pools=pools or (seen(Pool.PREFILL), seen(Pool.DECODE)),
        waiting_prompt_tokens=0.0,
        start_up_s=40.0,
    )
    return replace(base, **changes)


def memory(**changes: Any) -> Memory:
    base = Memory(
        started_s=NOW - 3600.0,
        updated_s=NOW - 15.0,
        learned=dict.fromkeys(Pool, LEARNED),
    )
    return replace(base, **changes)


def decide(observed: Observation, wanted: Goal | None = None, known: Memory | None = None) -> tuple[Plan, Memory]:
    return plan(wanted or goal(), observed, known or memory())


def reasons(p: Plan) -> dict[Pool, tuple[int, Reason]]:
    return {q.pool: (q.replicas, q.reason) for q in p.pools}


class TestSizing:
    @pytest.mark.parametrize(
        ("rps", "prefill", "decode"),
        [
            pytest.param(1.0, 1, 1, id="u .10 and .22: one each"),
            pytest.param(5.0, 1, 2, id="u_P .495 + .10 sqrt = .57; u_D 1.11 + .35 sqrt = 1.48"),
            pytest.param(10.0, 2, 3, id="u_P .99 + .10 = 1.09; u_D 2.22 + .52 = 2.74"),
            pytest.param(20.0, 3, 6, id="u_P 1.98 + .14 = 2.12; u_D 4.44 + .74 = 5.18"),
        ],
    )
    def test_square_root_staffing(self, rps: float, prefill: int, decode: int) -> None:
        got, _ = decide(observation(rps=rps))
        assert (got.replicas(Pool.PREFILL), got.replicas(Pool.DECODE)) == (prefill, decode)

    def test_prompt_heavy_traffic_grows_the_prefill_pool_only(self) -> None:
        got, _ = decide(observation(classes=(traffic("interactive", 0.0), traffic("batch", 5.0, 8000.0, 50.0))))
        assert reasons(got)[Pool.PREFILL] == (3, Reason.DEMAND_UP)
        assert got.replicas(Pool.DECODE) == 1

    def test_output_heavy_traffic_grows_the_decode_pool_only(self) -> None:
        got, _ = decide(observation(classes=(traffic("interactive", 0.0), traffic("batch", 5.0, 200.0, 900.0))))
        assert reasons(got)[Pool.DECODE] == (4, Reason.DEMAND_UP)
        assert got.replicas(Pool.PREFILL) == 1

    def test_strict_prompts_need_more_than_the_work(self) -> None:
        """u_P .79; f = 1, E[v^2]/E[v] = 4000: service .198 s, kappa .198 / .252 = .786; .79 + sqrt(.62) = 1.58."""
        strict = (traffic("interactive", 8.0, 2000.0, 10.0), traffic("batch", 0.0))
        costly = replace(LEARNED, attention_per_token=4000.0 / 2e6)
        got, _ = decide(observation(classes=strict), known=memory(learned=dict.fromkeys(Pool, costly)))
        assert got.replicas(Pool.PREFILL) == 2
        relaxed = (traffic("interactive", 0.0), traffic("batch", 8.0, 2000.0, 10.0))
        got, _ = decide(observation(classes=relaxed), known=memory(learned=dict.fromkeys(Pool, costly)))
        assert got.replicas(Pool.PREFILL) == 1

    def test_mixed_pool_is_sized_on_the_sum(self) -> None:
        """u = .99 + 2.22 = 3.21, + .35 sqrt = 3.84."""
        mixed = goal(pools=(pool_goal(Pool.MIXED),))
        got, _ = decide(observation(seen(Pool.MIXED), rps=10.0), mixed)
        assert reasons(got) == {Pool.MIXED: (4, Reason.DEMAND_UP)}
        assert got.inputs["mixed.work"] == pytest.approx(10 * (2000 * TAU_P + 400 * TAU_D))

    def test_target_load_is_a_guard_below_one(self) -> None:
        got, _ = decide(observation(rps=10.0), goal(target_load=0.3))
        assert got.replicas(Pool.PREFILL) == 4

    def test_a_jump_counts_at_once(self) -> None:
        jump = (traffic("interactive", 0.0), replace(traffic("batch", 2.0), recent_rps=10.0))
        got, _ = decide(observation(classes=jump, recent_window_s=15.0))
        assert got.replicas(Pool.DECODE) == 3

    def test_chance_is_no_jump(self) -> None:
        chance = (traffic("interactive", 0.0), replace(traffic("batch", 2.0), recent_rps=3.0))
        got, _ = decide(observation(classes=chance, recent_window_s=15.0))
        assert got.replicas(Pool.DECODE) == 1

    def test_class_without_lengths_borrows_the_others(self) -> None:
        young = (traffic("interactive", 5.0, None, None), traffic("batch", 5.0))
        got, _ = decide(observation(classes=young))
        assert got.inputs["prefill.work"] == pytest.approx(10 * 2000 * TAU_P)

    def test_record_allows_to_redo_the_sum(self) -> None:
        got, _ = decide(observation(rps=10.0))
        assert [s.name for s in got.steps] == [
            "stale", "demand", "capacity", "size", "backlog", "feedback", "unknown", "stabilise", "limits",
        ]  # fmt: skip
        assert got.capacity["prefill.tau_prefill_s"] == pytest.approx(TAU_P)
        assert got.capacity["decode.tau_decode_s"] == pytest.approx(TAU_D)
        assert got.capacity["decode.width"] == WIDTH
        assert got.load == pytest.approx(10 * 400 * TAU_D), "the fullest pool: decode 2.22, prefill .99, one each"
        assert got.pools[0].message == ("1 -> 2: 10.00 req/s x 2000 prompt tokens x 0.0495 ms = 0.99 replicas of work")


class TestHold:
    @pytest.mark.parametrize(
        ("change", "reason", "words"),
        [
            ({"problem": "Prometheus at x cannot be reached"}, Reason.METRICS_MISSING, "cannot be reached"),
            ({"newest_sample_s": None}, Reason.METRICS_MISSING, "no sample"),
            ({"newest_sample_s": NOW - 46.0}, Reason.METRICS_STALE, "46 s old, more than 45 s"),
            ({"newest_sample_s": NOW - 80.0, "scrape_gap_s": 30.0}, Reason.METRICS_STALE, "more than 75 s"),
        ],
    )
    def test_unreadable_metrics_keep_the_present_sizes(
        self, change: dict[str, Any], reason: Reason, words: str
    ) -> None:
        pools = (seen(Pool.PREFILL, 3), seen(Pool.DECODE, 5))
        got, _ = decide(observation(*pools, **change))
        assert reasons(got) == {Pool.PREFILL: (3, reason), Pool.DECODE: (5, reason)}
        assert words in got.message
        assert got.reason is reason

    def test_late_but_within_three_intervals_is_fine(self) -> None:
        got, _ = decide(observation(newest_sample_s=NOW - 44.0))
        assert got.reason is Reason.AT_MINIMUM

    def test_hold_respects_limits_that_a_person_lowered(self) -> None:
        pools = (seen(Pool.PREFILL, 3), seen(Pool.DECODE, 5))
        lower = goal(pools=(pool_goal(Pool.PREFILL, high=2), pool_goal(Pool.DECODE)), gpu_budget=6)
        got, _ = decide(observation(*pools, problem="gone"), lower)
        assert (got.replicas(Pool.PREFILL), got.replicas(Pool.DECODE)) == (2, 4)

    def test_unknown_arrivals_of_one_class_hold_all(self) -> None:
        blind = (traffic("interactive", None), traffic("batch", 0.0))
        got, _ = decide(observation(seen(Pool.PREFILL, 3), seen(Pool.DECODE, 3), classes=blind))
        assert reasons(got) == dict.fromkeys((Pool.PREFILL, Pool.DECODE), (3, Reason.METRICS_MISSING))
        assert "class interactive" in got.message

    def test_no_answer_has_ended_yet_is_warming_up(self) -> None:
        young = (traffic("interactive", 0.0), traffic("batch", 2.0, 2000.0, None))
        got, _ = decide(observation(classes=young))
        assert {r for _, r in reasons(got).values()} == {Reason.WARMING_UP}

    def test_unknown_capacity_holds_only_the_pool_that_it_is_unknown_of(self) -> None:
        known = memory(learned={Pool.PREFILL: LEARNED})
        got, _ = decide(observation(seen(Pool.PREFILL, 1), seen(Pool.DECODE, 4), rps=20.0), known=known)
        assert reasons(got) == {Pool.PREFILL: (3, Reason.DEMAND_UP), Pool.DECODE: (4, Reason.CAPACITY_UNKNOWN)}
        assert "0 engine steps seen" in got.pools[1].message

    def test_unknown_capacity_with_a_visible_queue_adds_one(self) -> None:
        queue = (seen(Pool.PREFILL, 2), seen(Pool.DECODE, 2, waiting=30.0))
        known = memory(learned={})
        got, _ = decide(observation(*queue, rps=9.0, waiting_prompt_tokens=40_000.0), known=known)
        assert reasons(got) == {Pool.PREFILL: (3, Reason.BACKLOG), Pool.DECODE: (3, Reason.BACKLOG)}
        assert "30 requests wait in 2 engines" in got.pools[1].message

    def test_and_no_second_one_while_the_first_starts(self) -> None:
        queue = (seen(Pool.PREFILL, 2, ready=1, starting=1), seen(Pool.DECODE, 2, ready=1))
        got, _ = decide(observation(*queue, rps=9.0, waiting_prompt_tokens=5e5), known=memory(learned={}))
        assert (got.replicas(Pool.PREFILL), got.replicas(Pool.DECODE)) == (2, 2)

    def test_zero_traffic_is_known_even_with_unknown_capacity(self) -> None:
        got, _ = decide(observation(seen(Pool.PREFILL, 3), seen(Pool.DECODE, 3)), known=memory(learned={}))
        assert reasons(got) == {Pool.PREFILL: (1, Reason.DEMAND_DOWN), Pool.DECODE: (1, Reason.DEMAND_DOWN)}

    def test_a_service_without_any_pod_starts_at_its_minima(self) -> None:
        got, _ = plan(goal(), observation(problem="no series", pools=()), None)
        assert reasons(got) == dict.fromkeys((Pool.PREFILL, Pool.DECODE), (1, Reason.METRICS_MISSING))


class TestBacklog:
    def test_queued_prompts_add_what_empties_them_in_time(self) -> None:
        """500,000 tokens = 24.8 s of work, to be gone in 2.5 x 40 = 100 s: + .25 to .99 + .10."""
        got, _ = decide(observation(seen(Pool.PREFILL, 1), rps=8.0, waiting_prompt_tokens=600_000.0))
        assert reasons(got)[Pool.PREFILL] == (2, Reason.BACKLOG)
        assert "600000 prompt tokens wait" in got.pools[0].message

    def test_what_the_next_steps_take_is_no_backlog(self) -> None:
        got, _ = decide(observation(rps=8.5, waiting_prompt_tokens=5000.0))
        assert got.replicas(Pool.PREFILL) == 1

    def test_residents_beyond_the_planned_width_count_as_work(self) -> None:
        """300 decodes less 2 sigma = 265 in widths of 81: 3.3 replicas, although little arrives now."""
        pools = (seen(Pool.PREFILL), seen(Pool.DECODE, running_decodes=300.0))
        got, _ = decide(observation(*pools, rps=1.0))
        assert reasons(got)[Pool.DECODE] == (4, Reason.BACKLOG)


def missing(share: float, events: float = 200.0) -> tuple[ClassTraffic, ...]:
    ttft = Attainment(target_s=30, events=events, good=share * events)
    return (traffic("interactive", 0.0), replace(traffic("batch", 5.0), ttft=ttft))


class TestFeedback:
    def test_misses_raise_the_margin_and_the_margin_raises_the_pool(self) -> None:
        """u_P .50: .57 replicas at first; a margin of .7 x sqrt(.50) passes 1."""
        known, sizes = memory(), []
        for tick in range(60):
            now = NOW + 15.0 * tick
            got, known = plan(goal(), observation(classes=missing(0.5), newest_sample_s=now), known, now)
            sizes.append(reasons(got)[Pool.PREFILL])
        assert sizes[0] == (1, Reason.STEADY)
        assert (2, Reason.SLO_MISS) in sizes
        assert "50.0 % of batch's TTFT within 30 s (target 95 %)" in got.pools[0].message
        assert Pool.DECODE not in known.margins

    def test_the_margin_decays_by_half_in_ten_minutes(self) -> None:
        known = memory(margins={Pool.PREFILL: 0.4}, updated_s=NOW)
        for tick in range(1, 41):
            now = NOW + 15.0 * tick
            _, known = plan(goal(), observation(newest_sample_s=now), known, now)
        assert known.margins[Pool.PREFILL] == pytest.approx(0.2, rel=1e-3)

    def test_few_events_say_nothing(self) -> None:
        _, known = decide(observation(classes=missing(0.0, events=19.0)))
        assert known.margins == {}

    def test_no_scale_down_while_missing(self) -> None:
        pools = (seen(Pool.PREFILL, 3), seen(Pool.DECODE, 2))
        got, _ = decide(observation(*pools, classes=missing(0.9)))
        assert reasons(got) == {Pool.PREFILL: (3, Reason.SLO_MISS), Pool.DECODE: (2, Reason.STEADY)}

    def test_late_first_tokens_are_the_decode_pool_s_when_requests_wait_there(self) -> None:
        pools = (seen(Pool.PREFILL, 1), seen(Pool.DECODE, 2, waiting=3.0))
        _, known = decide(observation(*pools, classes=missing(0.5)))
        assert set(known.margins) == {Pool.DECODE}

    def test_token_gaps_are_the_decode_pool_s(self) -> None:
        tbt = Attainment(target_s=0.5, events=5000, good=4000)
        late = (traffic("interactive", 0.0), replace(traffic("batch", 5.0), tbt=tbt))
        _, known = decide(observation(seen(Pool.PREFILL), seen(Pool.DECODE, 2), classes=late))
        assert set(known.margins) == {Pool.DECODE}


class TestStabilisation:
    def test_the_largest_want_of_one_start_up_time_holds(self) -> None:
        """Start-up 40 s: 6 decode replicas wanted at 0 s hold until 40 s are over."""
        known = memory()
        got, known = plan(goal(), observation(rps=20.0), known)
        desired, reached = got.replicas(Pool.DECODE), []
        for tick in range(1, 5):
            now = NOW + 15.0 * tick
            quiet = observation(seen(Pool.PREFILL), seen(Pool.DECODE, desired or 0), rps=1.0, newest_sample_s=now)
            got, known = plan(goal(), quiet, known, now)
            reached.append(reasons(got)[Pool.DECODE])
            desired = got.replicas(Pool.DECODE)
        assert reached == [(6, Reason.STABILIZING)] * 2 + [(1, Reason.DEMAND_DOWN), (1, Reason.STEADY)]

    def test_nothing_shrinks_in_the_first_window_of_a_fresh_operator(self) -> None:
        quiet = observation(seen(Pool.PREFILL, 4), seen(Pool.DECODE, 4))
        got, known = plan(goal(), quiet, None)
        assert reasons(got)[Pool.PREFILL] == (4, Reason.WARMING_UP)
        got, _ = plan(goal(), replace(quiet, newest_sample_s=NOW + 41), known, NOW + 41)
        assert got.replicas(Pool.PREFILL) == 1 or reasons(got)[Pool.PREFILL][1] is Reason.STABILIZING

    def test_nor_after_a_long_absence(self) -> None:
        quiet = observation(seen(Pool.PREFILL, 4), seen(Pool.DECODE, 4))
        assert reasons(decide(quiet, known=memory(updated_s=NOW - 300.0))[0])[Pool.DECODE] == (4, Reason.WARMING_UP)
        assert reasons(decide(quiet, known=memory(updated_s=NOW - 60.0))[0])[Pool.DECODE] == (1, Reason.DEMAND_DOWN)

    def test_noise_of_counting_shrinks_nothing(self) -> None:
        """12 req/s: u_D 2.66 + .57 = 3.23; 4 replicas stay. 9.5: 2.60, of 570 requests 6 % more is 2.76: 3 would do."""
        four = (seen(Pool.PREFILL, 2), seen(Pool.DECODE, 4))
        sizes = {rps: decide(observation(*four, rps=rps))[0].replicas(Pool.DECODE) for rps in (9.5, 10.6, 12.0)}
        assert sizes == {9.5: 3, 10.6: 4, 12.0: 4}
        three = (seen(Pool.PREFILL, 2), seen(Pool.DECODE, 3))
        assert decide(observation(*three, rps=10.6))[0].replicas(Pool.DECODE) == 3

    def test_a_stated_window_counts(self) -> None:
        known = memory(wants={Pool.DECODE: ((NOW - 100.0, 4),)})
        quiet = observation(seen(Pool.PREFILL), seen(Pool.DECODE, 4))
        assert decide(quiet, goal(stabilization_s=90.0), known)[0].replicas(Pool.DECODE) == 1
        assert decide(quiet, goal(stabilization_s=110.0), known)[0].replicas(Pool.DECODE) == 4

    def test_recovery_from_missing_metrics_does_not_shrink_at_once(self) -> None:
        blind = observation(seen(Pool.PREFILL, 3), seen(Pool.DECODE, 3), problem="gone")
        _, known = decide(blind)
        later = replace(blind, problem=None, newest_sample_s=NOW + 15, time_s=NOW + 15)
        got, _ = plan(goal(), later, known)
        assert reasons(got)[Pool.DECODE] == (3, Reason.STABILIZING)


class TestLimits:
    def test_maximum(self) -> None:
        got, _ = decide(observation(rps=60.0))
        assert reasons(got)[Pool.DECODE] == (8, Reason.AT_MAXIMUM)
        assert "15 wanted, maxReplicas 8" in got.pools[1].message

    def test_minimum(self) -> None:
        high = goal(pools=(pool_goal(Pool.PREFILL, low=2), pool_goal(Pool.DECODE)))
        got, _ = decide(observation(seen(Pool.PREFILL, 2), rps=0.0), high)
        assert reasons(got)[Pool.PREFILL] == (2, Reason.AT_MINIMUM)

    def test_a_raised_minimum_is_filled(self) -> None:
        high = goal(pools=(pool_goal(Pool.PREFILL, low=3), pool_goal(Pool.DECODE)))
        got, _ = decide(observation(rps=0.0), high)
        assert reasons(got)[Pool.PREFILL] == (3, Reason.AT_MINIMUM)

    def test_budget_goes_to_the_larger_load(self) -> None:
        """Wanted 3 + 6, budget 6: 2.12 / 2 against 5.18 / 4."""
        got, _ = decide(observation(rps=20.0), goal(gpu_budget=6))
        assert reasons(got) == {Pool.PREFILL: (2, Reason.BUDGET_LIMITED), Pool.DECODE: (4, Reason.BUDGET_LIMITED)}
        assert "gpuBudget 6" in got.pools[0].message

    def test_budget_goes_to_the_heavier_class(self) -> None:
        """Prompts are the interactive class's (weight 10), answers the batch class's (weight 1)."""
        split = (traffic("interactive", 20.0, 4000.0, 1.0), traffic("batch", 20.0, 1.0, 400.0))
        got, _ = decide(observation(classes=split), goal(gpu_budget=6))
        assert (got.replicas(Pool.PREFILL), got.replicas(Pool.DECODE)) == (5, 1)

    def test_growth_waits_for_gpus_that_leaving_pods_hold(self) -> None:
        pools = (seen(Pool.PREFILL, 4), seen(Pool.DECODE, 2))
        output_heavy = (traffic("interactive", 0.0), traffic("batch", 10.0, 10.0, 400.0))
        got, _ = decide(observation(*pools, classes=output_heavy), goal(gpu_budget=6))
        assert reasons(got) == {Pool.PREFILL: (1, Reason.DEMAND_DOWN), Pool.DECODE: (2, Reason.BUDGET_LIMITED)}
        assert "3 GPUs still held by leaving pods" in got.pools[1].message
        gone = (seen(Pool.PREFILL, 1), seen(Pool.DECODE, 2))
        got, _ = decide(observation(*gone, classes=output_heavy), goal(gpu_budget=6))
        assert got.replicas(Pool.DECODE) == 3

    def test_gpus_per_replica_count(self) -> None:
        large = goal(pools=(pool_goal(Pool.PREFILL), pool_goal(Pool.DECODE, gpus=4)), gpu_budget=12)
        got, _ = decide(observation(rps=20.0), large)
        assert (got.replicas(Pool.PREFILL), got.replicas(Pool.DECODE)) == (3, 2)

    def test_unschedulable_pods_stop_their_own_growth_only(self) -> None:
        pools = (seen(Pool.PREFILL, 3, ready=1, unschedulable=2), seen(Pool.DECODE, 1))
        got, _ = decide(observation(*pools, rps=40.0), goal(gpu_budget=9))
        assert reasons(got)[Pool.PREFILL] == (1, Reason.UNSCHEDULABLE)
        assert got.replicas(Pool.DECODE) == 8
        assert "2 pods find no node" in got.pools[0].message

    def test_unschedulable_pods_do_not_stop_scale_down(self) -> None:
        pools = (seen(Pool.PREFILL, 3, ready=1, unschedulable=2), seen(Pool.DECODE, 3))
        got, _ = decide(observation(*pools, rps=0.0))
        assert (got.replicas(Pool.PREFILL), got.replicas(Pool.DECODE)) == (1, 1)


class TestMemory:
    def test_text_and_back_plans_the_same(self) -> None:
        _, known = decide(observation(seen(Pool.PREFILL, 3), seen(Pool.DECODE), classes=missing(0.5)))
        back = Memory.from_json(known.to_json())
        assert back is not None
        again = observation(
            seen(Pool.PREFILL, 3), seen(Pool.DECODE), rps=6.0, time_s=NOW + 15, newest_sample_s=NOW + 15
        )
        one, other = plan(goal(), again, known)[0], plan(goal(), again, back)[0]
        assert one.pools == other.pools
        assert one.reason == other.reason

    def test_it_fits_an_annotation(self) -> None:
        known = memory()
        for tick in range(400):
            now = NOW + 5.0 * tick
            rps = 20.0 - tick / 20
            _, known = plan(goal(stabilization_s=600.0), observation(rps=rps, newest_sample_s=now), known, now)
        assert len(known.to_json()) < 1500

    @pytest.mark.parametrize("text", ["", "{}", "[1]", "null", '{"format": 2}', '{"format":1,"started":"x"}'])
    def test_unreadable_text_is_no_memory(self, text: str) -> None:
        assert Memory.from_json(text) is None

    def test_another_engine_forgets_capacity_but_keeps_history(self) -> None:
        bare = memory(margins={Pool.DECODE: 0.3}).without_capacity()
        assert (bare.learned, bare.margins, bare.started_s) == ({}, {}, NOW - 3600.0)


REACHED = {
    Reason.STEADY: observation(seen(Pool.PREFILL), seen(Pool.DECODE, 2), rps=5.0),
    Reason.DEMAND_UP: observation(rps=20.0),
    Reason.DEMAND_DOWN: observation(seen(Pool.PREFILL, 2), seen(Pool.DECODE, 2)),
    Reason.BACKLOG: observation(rps=8.0, waiting_prompt_tokens=6e5),
    Reason.SLO_MISS: observation(seen(Pool.PREFILL, 3), seen(Pool.DECODE, 2), classes=missing(0.9)),
    Reason.BUDGET_LIMITED: observation(seen(Pool.PREFILL, 2), seen(Pool.DECODE, 4), rps=20.0),
    Reason.AT_MAXIMUM: observation(rps=100.0),
    Reason.AT_MINIMUM: observation(rps=0.0),
    Reason.METRICS_STALE: observation(newest_sample_s=NOW - 900.0),
    Reason.METRICS_MISSING: observation(problem="gone"),
    Reason.CAPACITY_UNKNOWN: observation(seen(Pool.PREFILL, limits=None), seen(Pool.DECODE, limits=None), rps=1.0),
    Reason.UNSCHEDULABLE: observation(seen(Pool.PREFILL, 2, ready=1, unschedulable=1), seen(Pool.DECODE), rps=40.0),
    Reason.WARMING_UP: observation(classes=(traffic("interactive", 0.0), traffic("batch", 2.0, None, None))),
    Reason.STABILIZING: observation(seen(Pool.PREFILL), seen(Pool.DECODE, 2)),
}
SLEEPS = (Reason.SCALED_TO_ZERO, Reason.WAKING)
"""Of services whose pools may be empty: tests/core/test_planner_sleep.py."""


@pytest.mark.parametrize("reason", [r for r in Reason if r not in (Reason.MANUAL, *SLEEPS)])
def test_every_reason_is_reached_but_the_operator_s_own_manual(reason: Reason) -> None:
    known = memory(wants={Pool.DECODE: ((NOW - 10.0, 2),)}) if reason is Reason.STABILIZING else memory()
    budget = 6 if reason is Reason.BUDGET_LIMITED else None
    got, _ = decide(REACHED[reason], goal(gpu_budget=budget), known)
    assert reason in {p.reason for p in got.pools}
    assert all(p.message for p in got.pools)
