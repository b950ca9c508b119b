"""Which size was decided and which Deployments may go, by table."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservice_core.model import Mode, Pool
from llmservice_operator import rollout
from tests.control.test_children import good

BOTH = (Pool.PREFILL, Pool.DECODE)


def deployment(
    pool: str,
    revision: str,
    *,
    replicas: int = 1,
    noted: int | None = None,
    ready: int = 0,
    made: str = "1",
    was_complete: bool = False,
) -> dict[str, Any]:
    """`was_complete` as the Deployment controller notes it once every pod was available."""
    reason = "NewReplicaSetAvailable" if was_complete else "ReplicaSetUpdated"
    return {
        "metadata": {
            "name": f"chat-{pool}-{revision}",
            "creationTimestamp": made,
            "labels": {
                "llmservice.dev/component": "engine",
                "llmservice.dev/pool": pool,
                "llmservice.dev/revision": revision,
            },
            "annotations": {} if noted is None else {"llmservice.dev/replicas": str(noted)},
        },
        "spec": {"replicas": replicas},
        "status": {"readyReplicas": ready, "conditions": [{"type": "Progressing", "reason": reason}]},
    }


@pytest.mark.parametrize(
    ("living", "mode", "remembered", "expected"),
    [
        ([], Mode.AUTO, {}, 1),
        ([], Mode.AUTO, {Pool.DECODE: 4}, 4),
        ([], Mode.OFF, {Pool.DECODE: 0}, 1),
        ([deployment("decode", "new", replicas=0)], Mode.OFF, {Pool.DECODE: 3}, 0),
        ([deployment("decode", "new", replicas=2, noted=2)], Mode.AUTO, {}, 2),
        ([deployment("decode", "new", replicas=9, noted=2)], Mode.AUTO, {}, 2),
        ([deployment("decode", "new", replicas=9, noted=2)], Mode.RECOMMEND, {}, 9),
        ([deployment("decode", "new", replicas=9, noted=2)], Mode.OFF, {}, 9),
        ([deployment("decode", "old", replicas=3, noted=3)], Mode.AUTO, {Pool.DECODE: 1}, 3),
        ([deployment("decode", "old", noted=5, made="2"), deployment("decode", "new", noted=2)], Mode.AUTO, {}, 2),
        (
            [deployment("decode", "a", noted=5, made="1"), deployment("decode", "b", noted=4, made="2")],
            Mode.AUTO,
            {},
            4,
        ),
    ],
)
def test_the_size_before_the_decision(
    living: list[dict[str, Any]], mode: Mode, remembered: dict[Pool, int], expected: int
) -> None:
    service = good(scaling={"mode": mode})
    assert rollout.decided(service, "new", living, remembered)[Pool.DECODE] == expected


OLD = [deployment("prefill", "old", ready=1), deployment("decode", "old", ready=1)]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([], set()),
        ([deployment("prefill", "new", ready=1)], set()),
        ([deployment("prefill", "new", ready=1), deployment("decode", "new", ready=0)], set()),
        ([deployment("prefill", "new", ready=1), deployment("decode", "new", replicas=2, ready=1)], set()),
        (
            [deployment("prefill", "new", ready=1), deployment("decode", "new", ready=1)],
            {"chat-prefill-old", "chat-decode-old"},
        ),
    ],
)
def test_old_pools_go_together_when_all_new_ones_are_ready(new: list[dict[str, Any]], expected: set[str]) -> None:
    assert rollout.names(rollout.removable("new", BOTH, [*OLD, *new])) == expected


def test_a_pool_that_is_no_longer_used_goes_when_its_successor_is_ready() -> None:
    mixed = deployment("mixed", "new", ready=1)
    assert rollout.names(rollout.removable("new", [Pool.MIXED], [*OLD, mixed])) == rollout.names(OLD)


def revision(name: str, prefill: int, decode: int, *, made: str, was_complete: bool = False) -> list[dict[str, Any]]:
    """Two Deployments of two replicas each, so many of them Ready."""
    return [
        deployment(pool, name, replicas=2, ready=ready, made=made, was_complete=was_complete)
        for pool, ready in (("prefill", prefill), ("decode", decode))
    ]


SERVING = revision("a", 2, 2, made="1", was_complete=True)
DOWN = revision("a", 0, 0, made="1", was_complete=True)
BROKEN = revision("b", 2, 0, made="2")
THIN = revision("b", 1, 1, made="2")
NEW, READY = revision("c", 0, 2, made="3"), revision("c", 2, 2, made="3")
A, B = {"prefill-a", "decode-a"}, {"prefill-b", "decode-b"}
THREE = [
    ("the broken one makes room while the new one is not there", "c", [*SERVING, *BROKEN], B),
    ("and while the new one starts", "c", [*SERVING, *BROKEN, *NEW], B),
    ("all old ones go when the new one is Ready", "c", [*SERVING, *BROKEN, *READY], {*A, *B}),
    (
        "one that was complete stays while its pods are away; what is Ready helps",
        "c",
        [*DOWN, *BROKEN, *NEW],
        {"decode-b"},
    ),
    ("without Ready pods there is nothing to help with", "c", [*DOWN, *revision("b", 0, 0, made="2"), *NEW], B),
    ("none was complete: what is Ready stays", "c", [*THIN, *NEW], set()),
    ("none was complete: what is not Ready goes", "c", [*revision("b", 0, 0, made="2"), *NEW], B),
    (
        "the newest that was complete is the one",
        "c",
        [*SERVING, *revision("b", 1, 1, made="2", was_complete=True)],
        A,
    ),
    ("back to the old spec", "a", [*revision("a", 2, 1, made="1", was_complete=True), *THIN], B),
    ("half of a revision serves nobody", "c", [SERVING[0], *THIN, *NEW], set()),
]


@pytest.mark.parametrize(("current", "living", "expected"), [r[1:] for r in THREE], ids=[r[0] for r in THREE])
def test_of_three_revisions_the_one_that_serves_stays_and_the_broken_one_goes(
    current: str, living: list[dict[str, Any]], expected: set[str]
) -> None:
    going = rollout.names(rollout.removable(current, BOTH, living))
    assert {name.removeprefix("chat-") for name in going} == expected


@given(b=st.tuples(st.integers(0, 2), st.integers(0, 2)), c=st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_what_was_complete_is_never_removed_before_its_successor_is(b: tuple[int, int], c: tuple[int, int]) -> None:
    living = [*SERVING, *revision("b", *b, made="2"), *revision("c", *c, made="3")]
    assert (rollout.names(SERVING) <= rollout.names(rollout.removable("c", BOTH, living))) == (c == (2, 2))
