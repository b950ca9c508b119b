"""Routing: a table of cases with the engine that must win, then laws for all fleets."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.model import Pool
from llmservice_core.picking import Policy
from llmservice_core.routing import (
    PRIOR_OUTPUT_TOKENS,
    Endpoint,
    Learned,
    NoRoute,
    Predictor,
    Route,
    RouteReason,
    choose,
    decode_instead,
    overdue,
)

LAW = settings(deadline=None)


def engine(
    name: str, work: float = 0.0, *, revision: str = "a", ready: bool = True, drain: bool = False, deleted: bool = False
) -> Endpoint:
    """p1 is a prefill engine, d1 a decode engine, m1 a mixed one."""
    pool = {"p": Pool.PREFILL, "d": Pool.DECODE, "m": Pool.MIXED}[name[0]]
    return Endpoint(
        name=name,
        url=f"http://{name}",
        pool=pool,
        revision=revision,
        ready=ready,
        draining=drain or deleted,
        deleted=deleted,
        work_tokens=work,
    )


def leaving(name: str, since_s: float | None, **fields: Any) -> Endpoint:
    return replace(engine(name, drain=True), leaving_since_s=since_s, **fields)


def names(route: Route | NoRoute) -> str:
    if isinstance(route, NoRoute):
        return route.reason.value
    return f"{route.prefill.name if route.prefill else '-'} {route.decode.name}"


CASES = {
    "nothing at all": ([], "NoEndpoint"),
    "only prefill engines": ([engine("p1")], "NoEndpoint"),
    "only decode engines": ([engine("d1")], "NoEndpoint"),
    "one pair": ([engine("p1"), engine("d1")], "p1 d1"),
    "least predicted work wins in each pool": (
        [engine("p1", 900), engine("p2", 10), engine("d1", 5), engine("d2", 50)],
        "p2 d1",
    ),
    "not ready is left out": ([engine("p1", ready=False), engine("p2", 99), engine("d1")], "p2 d1"),
    "draining is left out": ([engine("p1"), engine("d1", drain=True), engine("d2", 99)], "p1 d2"),
    "marked by the operator is left out though it is alone": ([engine("p1"), engine("d1", drain=True)], "NoEndpoint"),
    "evicted and alone still serves": ([engine("p1", deleted=True), engine("d1")], "p1 d1"),
    "evicted and not alone is left out": ([engine("p1", deleted=True), engine("p2", 99), engine("d1")], "p2 d1"),
    "evicted and no longer Ready is left out": ([engine("p1", ready=False, deleted=True), engine("d1")], "NoEndpoint"),
    "revisions never pair": ([engine("p1"), engine("d1", revision="b")], "NoPair"),
    "the revision with less work in front is taken whole": (
        [engine("p1", 0), engine("d1", 500), engine("p2", 90, revision="b"), engine("d2", 10, revision="b")],
        "p2 d2",
    ),
    "a half-rolled revision is not used": ([engine("p1", 900), engine("d1", 900), engine("p2", revision="b")], "p1 d1"),
    "mixed engines take it in one step": ([engine("m1", 5), engine("m2", 1)], "- m2"),
    "a whole pair goes before mixed engines": ([engine("m1"), engine("p1"), engine("d1")], "p1 d1"),
    "mixed engines stand in for half a pair": ([engine("m1"), engine("p1")], "- m1"),
}


@pytest.mark.parametrize(("fleet", "expected"), CASES.values(), ids=CASES.keys())
def test_choice(fleet: list[Endpoint], expected: str) -> None:
    assert names(choose(fleet)) == expected


ONE_STEP = {
    "mixed first": ([engine("m1", 9), engine("d1", 0)], "- m1"),
    "else a decode engine, it can compute prompts": (
        [engine("p1"), engine("d1", 3), engine("d2", 2)],
        "- d2",
    ),
    "never a prefill engine": ([engine("p1")], "NoEndpoint"),
}


@pytest.mark.parametrize(("fleet", "expected"), ONE_STEP.values(), ids=ONE_STEP.keys())
def test_choice_in_one_step(fleet: list[Endpoint], expected: str) -> None:
    assert names(choose(fleet, one_step=True)) == expected


def test_excluded_engines_are_not_used() -> None:
    fleet = [engine("p1"), engine("p2", 50), engine("d1")]
    assert names(choose(fleet, excluded={"p1"})) == "p2 d1"
    assert names(choose(fleet, excluded={"d1"})) == "NoEndpoint"


def test_equals_share_by_draw() -> None:
    fleet = [engine(f"m{i}") for i in range(4)]
    assert [names(choose(fleet, draw=d)) for d in (0.0, 0.3, 0.6, 0.99)] == ["- m0", "- m1", "- m2", "- m3"]


def test_random_ignores_work() -> None:
    fleet = [engine("m1", 1e6), engine("m2", 0)]
    assert {names(choose(fleet, policy=Policy.RANDOM, draw=d)) for d in (0.1, 0.9)} == {"- m1", "- m2"}


fleets = st.lists(
    st.builds(
        Endpoint,
        name=st.uuids().map(str),
        url=st.just("http://x"),
        pool=st.sampled_from(Pool),
        revision=st.sampled_from(["a", "b", "c"]),
        ready=st.booleans(),
        draining=st.booleans(),
        work_tokens=st.floats(0, 1e6),
    ),
    max_size=12,
)
draws = st.floats(0, 1, exclude_max=True)
asks = st.fixed_dictionaries({"one_step": st.booleans(), "policy": st.sampled_from(Policy), "draw": draws})


@LAW
@given(fleet=fleets, ask=asks)
def test_law_a_route_uses_only_usable_engines_of_one_revision(fleet: list[Endpoint], ask: dict[str, object]) -> None:
    route = choose(fleet, **ask)  # type: ignore[arg-type]
    if isinstance(route, NoRoute):
        return
    assert route.decode.is_usable
    assert route.decode.pool in (Pool.DECODE, Pool.MIXED)
    if route.prefill is not None:
        assert route.prefill.is_usable
        assert (route.prefill.pool, route.decode.pool) == (Pool.PREFILL, Pool.DECODE)
        assert route.prefill.revision == route.decode.revision
        assert not ask["one_step"]


@LAW
@given(fleet=fleets, ask=asks)
def test_law_a_route_exists_exactly_when_engines_can_serve(fleet: list[Endpoint], ask: dict[str, object]) -> None:
    alive = [e for e in fleet if e.is_usable]
    revisions = {pool: {e.revision for e in alive if e.pool is pool} for pool in Pool}
    pair = bool(revisions[Pool.PREFILL] & revisions[Pool.DECODE])
    can = bool(revisions[Pool.MIXED]) or (bool(revisions[Pool.DECODE]) if ask["one_step"] else pair)
    assert isinstance(choose(fleet, **ask), Route) == can  # type: ignore[arg-type]


@LAW
@given(fleet=fleets, draw=draws)
def test_law_no_usable_mate_of_the_same_revision_has_less_work(fleet: list[Endpoint], draw: float) -> None:
    route = choose(fleet, draw=draw)
    if isinstance(route, Route):
        mates = [e for e in fleet if e.is_usable and (e.pool, e.revision) == (route.decode.pool, route.decode.revision)]
        assert route.decode.work_tokens == min(e.work_tokens for e in mates)


@LAW
@given(fleet=fleets, ask=asks, seed=st.randoms())
def test_law_order_of_discovery_does_not_matter(fleet: list[Endpoint], ask: dict[str, object], seed: object) -> None:
    shuffled = list(fleet)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    assert names(choose(fleet, **ask)) == names(choose(shuffled, **ask))  # type: ignore[arg-type]


@LAW
@given(fleet=fleets.filter(len), ask=asks)
def test_law_excluding_equals_removing(fleet: list[Endpoint], ask: dict[str, object]) -> None:
    gone = {e.name for e in fleet[::2]}
    rest = [e for e in fleet if e.name not in gone]
    assert names(choose(fleet, excluded=gone, **ask)) == names(choose(rest, **ask))  # type: ignore[arg-type]


@LAW
@given(fleet=fleets, ask=asks)
def test_law_engines_that_are_deleted_change_nothing_where_others_serve(
    fleet: list[Endpoint], ask: dict[str, object]
) -> None:
    served = {e.pool for e in fleet if e.is_usable}
    leaving = [engine(f"{pool[0]}-deleted", deleted=True) for pool in served]
    assert names(choose([*fleet, *leaving], **ask)) == names(choose(fleet, **ask))  # type: ignore[arg-type]


OVERDUE = {
    "its time is not over": ([leaving("d1", 950.0), engine("d2")], []),
    "its time is over": ([leaving("d1", 900.0), engine("d2")], ["d1"]),
    "nobody said since when": ([leaving("d1", None), engine("d2")], []),
    "it is alone": ([leaving("d1", 900.0), engine("p2")], []),
    "the other one is not Ready": ([leaving("d1", 900.0), engine("d2", ready=False)], []),
    "the other one leaves, too": ([leaving("d1", 900.0), leaving("d2", 990.0)], []),
    "the other one has another model": ([leaving("d1", 900.0, model="a"), engine("d2")], []),
    "another revision of its model": (
        [leaving("d1", 900.0, model="a"), replace(engine("d2", revision="b"), model="a")],
        ["d1"],
    ),
}


@pytest.mark.parametrize(("fleet", "expected"), OVERDUE.values(), ids=OVERDUE.keys())
def test_what_an_engine_still_has_is_taken_from_it(fleet: list[Endpoint], expected: list[str]) -> None:
    assert [e.name for e in overdue(fleet, now_s=1000.0, deadline_s=100.0)] == expected


def test_prediction_starts_at_four_bytes_per_token_and_learns() -> None:
    fresh = Predictor(output_tokens={})
    assert fresh.prompt(4000) == 1000
    learned = fresh
    for _ in range(200):
        learned = learned.learn_prompt(1000, 1000)
    assert learned.prompt(4000) == pytest.approx(4000, rel=0.02)
    assert fresh.prompt(4000) == 1000


def test_output_prediction_is_per_class_and_never_over_the_limit() -> None:
    seen = Predictor(output_tokens={})
    for _ in range(200):
        seen = seen.learn_output("batch", 1000)
    assert seen.output("batch", None) == pytest.approx(1000, rel=0.05)
    assert seen.output("batch", 16) == 16
    assert seen.output("interactive", None) == PRIOR_OUTPUT_TOKENS.ratio


@LAW
@given(pairs=st.lists(st.tuples(st.floats(0, 1e5), st.floats(0.001, 1e5)), max_size=30))
def test_law_a_learned_ratio_stays_within_what_was_seen(pairs: list[tuple[float, float]]) -> None:
    learned = Learned(numerator=250, denominator=1000)
    for numerator, denominator in pairs:
        learned = learned.learn(numerator, denominator)
    seen = [0.25, *(n / d for n, d in pairs)]
    assert min(seen) * 0.999 <= learned.ratio <= max(seen) * 1.001


def test_nothing_is_learned_from_an_empty_prompt() -> None:
    before = Predictor(output_tokens={})
    assert before.learn_prompt(0, 7) == before


def test_reasons_say_what_a_person_sees() -> None:
    route = choose([engine("p1"), engine("d1", revision="b")])
    assert isinstance(route, NoRoute)
    assert route.reason is RouteReason.NO_PAIR
    assert "same revision" in route.message


@pytest.mark.parametrize(
    ("fleet", "taken"),
    [
        ([engine("d1", 90), engine("d2", 1)], "d1"),  # it was reserved, whatever work it has
        ([engine("d1", drain=True), engine("d2", 9), engine("d3", 5)], "d3"),
        ([engine("d1", drain=True), engine("d2", revision="b"), engine("p1")], "d1"),
        ([engine("d2", 9)], "d2"),
        ([], "d1"),
    ],
)
def test_a_reserved_decode_engine_that_leaves_is_replaced_within_its_revision(
    fleet: list[Endpoint], taken: str
) -> None:
    assert decode_instead(fleet, engine("d1")).name == taken
    excluded = decode_instead([engine("d1"), engine("d2", 9)], engine("d1"), excluded={"d1"})
    assert excluded.name == "d2"
