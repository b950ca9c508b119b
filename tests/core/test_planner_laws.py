"""Laws that hold for every goal, observation and memory.

1 never over the budget, a maximum or under a minimum          4 a plan applied and asked again changes nothing
2 unknown metrics, all or in part, never scale down            5 memory survives its text
3 more demand never gives fewer pods

Most worlds are healthy, so that the laws meet the whole chain of steps and not only the holds at its beginning.
"""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.capacity import Learned
from llmservice_core.model import (
    Attainment,
    Calls,
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
from llmservice_core.planner_facts import ALL_STEPS
from llmservice_core.planner_forecast import Errors
from llmservice_core.planner_memory import Memory, Spent

NOW = 1_800_000_000.0
LIMITS = EngineLimits(kv_tokens=1e5, max_batched_tokens=64, max_seqs=32, tile_tokens=16)
LEARNED = Learned(theta=(0.01, 0.004, 0.3, 0.1, 0.001, 0.002), attention_per_token=1e-4, context_tokens=300.0)

sizes = st.integers(0, 8)
one_in_ten = st.sampled_from([False] * 9 + [True])


@st.composite
def mostly(draw: st.DrawFn, usual: st.SearchStrategy[float]) -> float | None:
    return None if draw(one_in_ten) else draw(usual)


rates = mostly(st.one_of(st.just(0.0), st.floats(0.01, 60.0)))
lengths = mostly(st.floats(1.0, 2000.0))
gauges = st.one_of(st.none(), st.floats(0.0, 5000.0))


@st.composite
def goals(draw: st.DrawFn) -> Goal:
    kinds = draw(st.sampled_from([(Pool.PREFILL, Pool.DECODE), (Pool.MIXED,)]))
    pools = tuple(
        PoolGoal(pool=p, min_replicas=low, max_replicas=max(1, low) + draw(st.integers(0, 6)), gpus_per_replica=gpus)
        for p in kinds
        for low, gpus in [(draw(st.integers(0, 3)), draw(st.sampled_from([1, 1, 2, 4])))]
    )
    least = sum(max(1, p.min_replicas) * p.gpus_per_replica for p in pools)
    classes = tuple(
        ServiceClass(
            name=name,
            ttft=Slo(target_s=draw(st.sampled_from([0.2, 1.0, 30.0])), percentile=95),
            tbt=Slo(target_s=draw(st.sampled_from([0.02, 0.05, 0.5])), percentile=99),
            weight=draw(st.sampled_from([1.0, 10.0])),
        )
        for name in ("interactive", "batch")
    )
    return Goal(
        classes=classes,
        pools=pools,
        mode=Mode.AUTO,
        gpu_budget=draw(st.one_of(st.none(), st.integers(least, least + 10))),
        interval_s=draw(st.sampled_from([5.0, 15.0])),
        target_load=draw(st.sampled_from([0.5, 0.98])),
        stabilization_s=draw(st.one_of(st.none(), st.floats(0.0, 300.0))),
        decode_takes_prefill=draw(st.booleans()),
    )


@st.composite
def attainments(draw: st.DrawFn, target_s: float) -> Attainment | None:
    events = draw(st.sampled_from([None, 0.0, 10.0, 500.0]))
    if events is None:
        return None
    return Attainment(target_s=target_s, events=events, good=events * draw(st.floats(0.0, 1.0)))


@st.composite
def traffics(draw: st.DrawFn, goal: Goal) -> tuple[ClassTraffic, ...]:
    return tuple(
        ClassTraffic(
            name=c.name,
            arrivals_rps=draw(rates),
            recent_rps=draw(rates),
            prompt_tokens=draw(lengths),
            output_tokens=draw(lengths),
            ttft=draw(attainments(c.ttft.target_s)),
            tbt=draw(attainments(c.tbt.target_s)),
        )
        for c in goal.classes
    )


@st.composite
def observations(draw: st.DrawFn, goal: Goal) -> Observation:
    pools = tuple(
        PoolSeen(
            pool=p.pool,
            desired=draw(sizes),
            ready=draw(sizes),
            starting=draw(st.integers(0, 2)),
            draining=(draining := draw(st.integers(0, 2))),
            unschedulable=draw(st.sampled_from([0] * 8 + [1, 3])),
            recallable=draw(st.integers(0, draining)),
            limits=None if draw(one_in_ten) else LIMITS,
            waiting=draw(gauges),
            running_decodes=draw(gauges),
            unscraped=draw(st.sampled_from([0] * 8 + [1, 3])),
        )
        for p in goal.pools
    )
    return Observation(
        time_s=NOW,
        newest_sample_s=draw(st.sampled_from([NOW - 3.0] * 8 + [NOW - 900.0, None])),
        scrape_gap_s=draw(st.sampled_from([None, 5.0, 60.0])),
        window_s=60.0,
        classes=draw(traffics(goal)),
        pools=pools,
        waiting_prompt_tokens=draw(gauges),
        start_up_s=draw(st.sampled_from([None, 30.0, 600.0])),
        recent_window_s=draw(st.sampled_from([None, 15.0])),
        problem=draw(st.sampled_from([None] * 9 + ["gone"])),
        unscraped_routers=draw(st.sampled_from([0] * 9 + [1])),
        calls=draw(calls()),
    )


@st.composite
def calls(draw: st.DrawFn) -> Calls | None:
    """As routers make them: a request that is remembered came no later than the time without any began."""
    if draw(one_in_ten):
        return None
    quiet_s = draw(st.sampled_from([0.0, 100.0, 299.0, 300.0, 4000.0]))
    last_s = draw(st.sampled_from([None, quiet_s, quiet_s + 500.0]))
    return Calls(quiet_s=quiet_s, last_s=last_s, waiting=draw(st.integers(0, 3)) if quiet_s == 0.0 else 0)


@st.composite
def budgets(draw: st.DrawFn, goal: Goal) -> dict[Pool, Spent]:
    """Of some promises, what is spent: from nothing to all that was asked."""
    rows = {}
    for c in goal.classes:
        for name, slo in (("TTFT", c.ttft), ("TBT", c.tbt)):
            asked = draw(st.sampled_from([0.0, 300.0, 90000.0]))
            rows[f"{c.name} {name} {slo.target_s:g}"] = (draw(st.floats(0.0, 1.0)) * asked, asked)
    return dict.fromkeys(Pool, rows) if draw(st.booleans()) else {}


@st.composite
def memories(draw: st.DrawFn, goal: Goal) -> Memory | None:
    if draw(one_in_ten):
        return None
    wants = {p: ((NOW - draw(st.floats(1.0, 400.0)), draw(st.integers(1, 9))),) for p in Pool}
    return Memory(
        started_s=NOW - draw(st.sampled_from([0.0, 100.0, 9000.0])),
        updated_s=NOW - draw(st.sampled_from([0.0, 15.0, 4000.0])),
        margins={p: draw(st.floats(-0.35, 4.0)) for p in Pool},
        past={p: ((NOW - 150.0, draw(st.floats(0.0, 9.0))), (NOW - 15.0, draw(st.floats(0.0, 9.0)))) for p in Pool},
        errors=dict.fromkeys(Pool, Errors(squares=draw(st.floats(0.0, 50.0)), count=draw(st.floats(0.0, 900.0)))),
        spent=draw(budgets(goal)),
        wants=draw(st.sampled_from([{}, wants])),
        unsettled_s=dict.fromkeys(Pool, NOW - draw(st.sampled_from([0.0, 100.0]))),
        learned={} if draw(one_in_ten) else dict.fromkeys(Pool, LEARNED),
    )


worlds = goals().flatmap(lambda g: st.tuples(st.just(g), observations(g), memories(g)))
World = tuple[Goal, Observation, Memory | None]


def gpus(goal: Goal, made: Plan) -> int:
    return sum((made.replicas(p.pool) or 0) * p.gpus_per_replica for p in goal.pools)


def applied(seen: Observation, made: Plan) -> Observation:
    pools = tuple(replace(p, desired=made.replicas(p.pool) or 0) for p in seen.pools)
    return replace(seen, pools=pools)


@settings(max_examples=200, deadline=None)
@given(worlds, st.booleans())
def test_law_1_limits_always_hold(world: World, flips: bool) -> None:
    goal, seen, memory = world
    made, _ = plan(goal, seen, memory, settings=replace(ALL_STEPS, flips=flips))
    for p in goal.pools:
        assert p.min_replicas <= (made.replicas(p.pool) or 0) <= p.max_replicas
    assert goal.gpu_budget is None or gpus(goal, made) <= goal.gpu_budget


UNKNOWNS = (
    "problem",
    "sample",
    "age",
    "one class",
    "all classes",
    "a router",
    "limits",
    "decodes",
    "waiting",
    "an engine",
    "prompts",
)


@st.composite
def contested(draw: st.DrawFn) -> World:
    """All is known, the pools serve, nothing else holds them, and there is no load or more than the budget is for.

    Then one thing is unknown.
    """
    goal, seen, _ = draw(worlds)
    goal = replace(goal, pools=tuple(replace(p, max_replicas=p.min_replicas + 8) for p in goal.pools))
    present = {p.pool: p.min_replicas + draw(st.integers(0, 6)) for p in goal.pools}
    pools = tuple(
        PoolSeen(
            pool=pool,
            desired=size,
            ready=size,
            starting=0,
            draining=0,
            unschedulable=draw(st.sampled_from([0, 0, 0, 1])),
            limits=LIMITS,
            waiting=0.0,
            running_decodes=draw(st.sampled_from([0.0, 30.0])),
        )
        for pool, size in present.items()
    )
    rps = draw(st.sampled_from([(0.0,), (1.0, 40.0)]))
    classes = tuple(
        ClassTraffic(
            name=c.name,
            arrivals_rps=draw(st.sampled_from(rps)),
            prompt_tokens=draw(st.sampled_from([1.0, 400.0])),
            output_tokens=draw(st.sampled_from([1.0, 400.0])),
            ttft=None,
            tbt=None,
        )
        for c in goal.classes
    )
    held = sum(present[p.pool] * p.gpus_per_replica for p in goal.pools)
    goal = replace(goal, gpu_budget=held + draw(st.integers(0, 2)), stabilization_s=0.0)
    known = replace(
        seen,
        classes=classes,
        pools=pools,
        waiting_prompt_tokens=draw(st.sampled_from([0.0, 5000.0])),
        newest_sample_s=NOW - 3.0,
        problem=None,
        unscraped_routers=0,
    )
    memory = Memory(started_s=NOW - 9000.0, updated_s=NOW - 5.0, learned=dict.fromkeys(Pool, LEARNED))
    return goal, blinded(known, draw(st.sampled_from(UNKNOWNS))), memory


def blinded(seen: Observation, unknown: str) -> Observation:
    """The same world with one thing not known, the last of several where there are more."""
    last, other = seen.pools[-1], seen.pools[:-1]
    dark = [replace(c, arrivals_rps=None, recent_rps=None) for c in seen.classes]
    worlds: dict[str, dict[str, object]] = {
        "problem": {"problem": "Prometheus is away"},
        "sample": {"newest_sample_s": None},
        "age": {"newest_sample_s": NOW - 900.0},
        "one class": {"classes": (*seen.classes[:-1], dark[-1])},
        "all classes": {"classes": tuple(dark)},
        "a router": {"unscraped_routers": 1},
        "limits": {"pools": (*other, replace(last, limits=None))},
        "decodes": {"pools": (*other, replace(last, running_decodes=None))},
        "waiting": {"pools": (*other, replace(last, waiting=None))},
        "an engine": {"pools": (*other, replace(last, unscraped=1))},
        "prompts": {"waiting_prompt_tokens": None},
    }
    return replace(seen, **worlds[unknown])  # type: ignore[arg-type]


def is_unknown(pool: PoolSeen, seen: Observation, memory: Memory | None) -> bool:
    """In the law's own words: is there load that this pool may have and nobody saw, or nobody knows the cost of?"""
    no_age = seen.newest_sample_s is None or seen.newest_sample_s < NOW - 180.0
    rates = [c.arrivals_rps for c in seen.classes]
    if seen.problem or no_age or None in rates or seen.unscraped_routers:
        return True
    arrives = sum(rate or 0.0 for rate in rates) > 0.0
    mute = pool.limits is None or memory is None or pool.pool not in memory.learned
    prompts, decodes = pool.pool is not Pool.DECODE, pool.pool is not Pool.PREFILL and pool.ready + pool.starting > 0
    waiting = pool.waiting if pool.pool is Pool.DECODE else 0.0
    unseen = pool.running_decodes is None or waiting is None or pool.unscraped > 0
    resident = (pool.running_decodes or 0.0) + (waiting or 0.0) > 0.0
    return (
        (mute and arrives)
        or (prompts and (seen.waiting_prompt_tokens is None or (mute and seen.waiting_prompt_tokens > 0.0)))
        or (decodes and (unseen or (mute and resident)))
    )


@settings(deadline=None)
@given(worlds)
def test_law_2_unknown_metrics_never_scale_down(world: World) -> None:
    assert_unknown_is_kept(*world)


@settings(max_examples=400, deadline=None)
@given(contested())
def test_law_2_nor_does_one_unknown_number_that_others_could_use(world: World) -> None:
    assert_unknown_is_kept(*world)


def assert_unknown_is_kept(goal: Goal, seen: Observation, memory: Memory | None) -> None:
    """Whatever others need; only a budget that does not even hold the unknown pools cuts them, and says so."""
    kept = {p.pool: p.min_replicas for p in goal.pools}
    for p, limits in ((p, g) for p in seen.pools for g in goal.pools if g.pool is p.pool):
        if is_unknown(p, seen, memory):
            kept[p.pool] = max(limits.min_replicas, min(p.desired, limits.max_replicas))
    made, _ = plan(goal, seen, memory)
    # A service that is awake has a replica in each pool, also where its minimum is 0.
    if goal.gpu_budget is None or sum(max(1, kept[p.pool]) * p.gpus_per_replica for p in goal.pools) <= goal.gpu_budget:
        assert all((made.replicas(pool) or 0) >= size for pool, size in kept.items())
    else:
        cut = {p.reason for p in made.pools if p.replicas < kept[p.pool]}
        assert cut <= {Reason.BUDGET_LIMITED, Reason.AT_MAXIMUM}


@settings(deadline=None)
@given(worlds, st.floats(1.0, 5.0))
def test_law_3_more_demand_never_gives_fewer_pods(world: World, factor: float) -> None:
    goal, seen, memory = world
    goal = replace(goal, gpu_budget=None)
    more = tuple(
        replace(
            c,
            arrivals_rps=None if c.arrivals_rps is None else c.arrivals_rps * factor,
            recent_rps=None if c.recent_rps is None else c.recent_rps * factor,
        )
        for c in seen.classes
    )
    little, much = plan(goal, seen, memory)[0], plan(goal, replace(seen, classes=more), memory)[0]
    for p in goal.pools:
        assert (much.replicas(p.pool) or 0) >= (little.replicas(p.pool) or 0)


@settings(max_examples=200, deadline=None)
@given(worlds)
def test_law_4_a_plan_applied_changes_nothing_more(world: World) -> None:
    goal, seen, memory = world
    made, known = plan(goal, seen, memory)
    again, known_again = plan(goal, applied(seen, made), known)
    assert [(p.pool, p.replicas) for p in again.pools] == [(p.pool, p.replicas) for p in made.pools]
    assert known_again.margins == known.margins


@settings(max_examples=400, deadline=None)
@given(worlds, st.booleans())
def test_law_6_a_service_sleeps_as_a_whole_and_only_when_everybody_knows_of_no_request(
    world: World, was_asleep: bool
) -> None:
    goal, seen, memory = world
    if was_asleep:
        seen = replace(seen, pools=tuple(replace(p, desired=0, ready=0, starting=0) for p in seen.pools))
    made, _ = plan(goal, seen, memory)
    sizes = {p.replicas for p in made.pools}
    assert 0 not in sizes or (sizes == {0} and goal.may_sleep)
    if sizes == {0} and any(p.desired for p in seen.pools):
        assert seen.calls is not None
        assert seen.calls.quiet_s >= goal.idle_after_s
        assert not any(is_unknown(p, seen, memory) for p in seen.pools)
    if seen.calls is not None and seen.calls.last_s is not None and seen.calls.last_s < goal.idle_after_s:
        assert 0 not in sizes


@settings(deadline=None)
@given(worlds)
def test_law_5_memory_survives_its_text(world: World) -> None:
    goal, seen, memory = world
    _, known = plan(goal, seen, memory)
    back = Memory.from_json(known.to_json())
    assert back is not None
    assert back == known
    assert plan(goal, seen, back)[0].pools == plan(goal, seen, known)[0].pools
