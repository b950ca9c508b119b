"""Who leaves and when: cases by name, then laws for every pool."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservice_core.draining import SETTLE_S, Drains, Occupant, Why, Work, decide, may_go, replicas, victims

NOW_S, DEADLINE_S = 1000.0, 60.0
IDLE = Work(requests=0, tokens=0.0, unpulled_blocks=0, is_avoided=True)
BUSY = Work(requests=3, tokens=90.0, unpulled_blocks=0, is_avoided=True)


def pod(name: str, **fields: Any) -> Occupant:
    return Occupant(**{"name": name, "serves": True, "work": BUSY, **fields})


def decided(*pods: Occupant, size: int, may_begin: bool = True) -> Drains:
    return decide(pods, size, may_begin=may_begin, now_s=NOW_S, deadline_s=DEADLINE_S)


CHOICES = {
    "none that does not serve: the fewest tokens": ([pod("a", work=BUSY), pod("b", work=IDLE)], "b"),
    "one that does not serve, whatever it has": ([pod("a", work=IDLE), pod("b", serves=False)], "b"),
    "the drain that is under way": ([pod("a", since_s=990.0), pod("b", work=IDLE)], "a"),
    "the one that was released": ([pod("a", since_s=1.0), pod("b", since_s=2.0, is_released=True)], "b"),
    "one that starts, though another drains": ([pod("a", since_s=990.0), pod("b", serves=False)], "b"),
    "unknown work is not little work": ([pod("a", work=Work()), pod("b")], "b"),
    "by name where all is equal": ([pod("b"), pod("a")], "a"),
}


@pytest.mark.parametrize(("pods", "first"), CHOICES.values(), ids=CHOICES.keys())
def test_who_goes_first(pods: list[Occupant], first: str) -> None:
    assert [p.name for p in victims(pods, 1)] == [first]


ENDS = {
    "nothing left": ({"work": IDLE}, Why.FINISHED),
    "nothing left, but just begun": ({"work": IDLE, "since_s": NOW_S - SETTLE_S / 2}, None),
    "a router that still sends": ({"work": replace(IDLE, is_avoided=False)}, None),
    "requests unknown": ({"work": replace(IDLE, requests=None)}, None),
    "blocks unknown": ({"work": replace(IDLE, unpulled_blocks=None)}, None),
    "blocks to pull": ({"work": replace(IDLE, unpulled_blocks=4)}, None),
    "busy": ({}, None),
    "busy beyond the deadline": ({"since_s": NOW_S - DEADLINE_S}, Why.DEADLINE),
    "unknown beyond the deadline": ({"work": Work(), "since_s": NOW_S - DEADLINE_S}, Why.DEADLINE),
    "never started": ({"is_started": False, "work": Work(), "since_s": NOW_S}, Why.NOT_STARTED),
    "not draining": ({"work": IDLE, "since_s": None}, None),
}


@pytest.mark.parametrize(("fields", "why"), ENDS.values(), ids=ENDS.keys())
def test_when_a_pod_may_go(fields: Any, why: Why | None) -> None:
    assert may_go(pod("a", **{"since_s": NOW_S - 10, **fields}), NOW_S, DEADLINE_S) == why


def test_a_drain_from_its_begin_to_its_end() -> None:
    stays, goes = pod("stays"), pod("goes", work=replace(BUSY, tokens=10.0))
    assert decided(stays, goes, size=1) == Drains(begin=(goes,), held=1)
    goes = replace(goes, since_s=NOW_S - 10)
    assert decided(stays, goes, size=1) == Drains(held=1)
    goes = replace(goes, work=IDLE)
    assert decided(stays, goes, size=1) == Drains(release=((goes, Why.FINISHED),), held=1)
    goes = replace(goes, is_released=True)
    assert decided(stays, goes, size=1) == Drains(held=0)
    assert decided(stays, size=1) == Drains()


def test_load_that_returns_takes_it_back() -> None:
    stays, goes = pod("stays"), pod("goes", since_s=990.0)
    assert decided(stays, goes, size=2) == Drains(take_back=(goes,))


def test_the_drain_moves_to_a_pod_that_stopped_serving() -> None:
    """Else the last one that serves would be the one that leaves."""
    last, broken = pod("last", since_s=990.0), pod("broken", serves=False)
    assert decided(last, broken, size=1) == Drains(begin=(broken,), take_back=(last,), held=1)


def test_where_people_set_the_sizes_no_drain_begins() -> None:
    pods = pod("a", since_s=990.0), pod("b"), pod("c")
    assert decided(*pods, size=1, may_begin=False) == Drains(held=1)
    assert decided(*pods, size=3, may_begin=False).take_back == (pods[0],)


@pytest.mark.parametrize(
    ("size", "written", "held", "asked"), [(4, 5, 1, 5), (4, 5, 0, 4), (4, 4, 1, 4), (6, 5, 0, 6), (4, 3, 1, 4)]
)
def test_what_is_asked_of_kubernetes(size: int, written: int, held: int, asked: int) -> None:
    assert replicas(size, written, held) == asked


works = st.builds(
    Work,
    requests=st.none() | st.integers(0, 2),
    tokens=st.none() | st.floats(0, 100),
    unpulled_blocks=st.none() | st.integers(0, 2),
    is_avoided=st.booleans(),
)
occupants = st.builds(
    Occupant,
    name=st.text("abcdefgh", min_size=1, max_size=4),
    serves=st.booleans(),
    is_started=st.booleans(),
    since_s=st.none() | st.floats(0, NOW_S),
    is_released=st.booleans(),
    work=works,
)
pools = st.lists(occupants, max_size=8, unique_by=lambda p: p.name).map(
    lambda pods: [p if p.is_draining else replace(p, is_released=False) for p in pods]
)
sizes = st.integers(1, 8)


@given(pools, sizes)
def test_as_many_stay_as_the_pool_is_to_have(pods: list[Occupant], size: int) -> None:
    found = decided(*pods, size=size)
    left = {p.name for p in victims(pods, size)}
    assert len(pods) - len(left) == min(len(pods), size)
    assert {p.name for p in found.begin} | {p.name for p, _ in found.release} <= left
    assert found.held <= len(left)


@given(pools, sizes)
def test_a_pod_that_serves_goes_only_when_none_that_does_not_is_left(pods: list[Occupant], size: int) -> None:
    """So the last one that serves never goes while the pool is to have any."""
    gone = victims(pods, size)
    stay = [p for p in pods if p not in gone]
    assert not any(p.serves for p in gone) or all(p.serves for p in stay)
    assert any(p.serves for p in stay) or not any(p.serves for p in pods)


@given(pools, sizes, st.floats(0, 100))
def test_what_is_unknown_or_left_to_do_is_never_finished(pods: list[Occupant], size: int, deadline_s: float) -> None:
    drains = decide(pods, size, may_begin=True, now_s=NOW_S, deadline_s=deadline_s)
    for p, why in drains.release:
        assert p.since_s is not None
        finished = p.work.requests == 0 and p.work.unpulled_blocks == 0 and p.work.is_avoided
        assert {Why.FINISHED: finished, Why.NOT_STARTED: not p.is_started}.get(why, NOW_S - p.since_s >= deadline_s)


def carried_out(pods: list[Occupant], drains: Drains) -> list[Occupant]:
    """As the pods are after the writes."""
    changed = {p.name: replace(p, since_s=NOW_S) for p in drains.begin}
    changed |= {p.name: replace(p, is_released=True) for p, _ in drains.release}
    changed |= {p.name: replace(p, since_s=None, is_released=False) for p in drains.take_back}
    return [changed.get(p.name, p) for p in pods]


@given(pools, sizes)
def test_an_operator_that_is_killed_anywhere_goes_on_from_the_pods(pods: list[Occupant], size: int) -> None:
    """Written in full, nothing but ends of new drains is left; written in part, the rest is decided again."""
    first = decided(*pods, size=size)
    part = Drains(begin=first.begin[:1], release=first.release[:1], take_back=first.take_back[:1])
    leaving = {p.name for p in victims(pods, size)}
    for done in (part, first):
        after = carried_out(pods, done)
        assert {p.name for p in victims(after, size)} == leaving
    again = decided(*carried_out(pods, first), size=size)
    assert not again.begin
    assert not again.take_back
    assert {p.name for p, _ in again.release} <= {p.name for p in first.begin}


@given(pools, sizes, st.integers(1, 9))
def test_never_over_what_was_paid_for_already(pods: list[Occupant], size: int, written: int) -> None:
    held = decided(*pods, size=size).held
    assert size <= replicas(size, written, held) <= max(size, written)
