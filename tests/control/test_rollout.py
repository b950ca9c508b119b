"""Which size was decided and which Deployments may go, by table; and when a child differs from what is wanted."""

from typing import Any

import pytest

from llmservice_core.model import Mode, Pool
from llmservice_operator import compare, rollout
from tests.control.test_children import good

BOTH = (Pool.PREFILL, Pool.DECODE)


def deployment(
    pool: str, revision: str, *, replicas: int = 1, noted: int | None = None, ready: int = 0, made: str = "1"
) -> dict[str, Any]:
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
        "status": {"readyReplicas": ready},
    }


@pytest.mark.parametrize(
    ("living", "mode", "remembered", "expected"),
    [
        ([], Mode.AUTO, {}, 1),
        ([], Mode.AUTO, {Pool.DECODE: 4}, 4),
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


WANTED = {"spec": {"replicas": 2, "ports": [{"name": "http", "port": 80}], "extra": {}, "list": ["a", "b"]}}


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        ({"spec": {"replicas": 2, "ports": [{"name": "http", "port": 80}], "list": ["a", "b"]}}, False),
        ({"spec": {**WANTED["spec"], "added": 1}, "status": {}}, False),
        ({"spec": {**WANTED["spec"], "ports": [{"name": "http", "port": 80, "nodePort": 3}]}}, False),
        ({"spec": {**WANTED["spec"], "ports": [{"name": "x", "port": 1}, {"name": "http", "port": 80}]}}, False),
        ({"spec": {**WANTED["spec"], "replicas": 3}}, True),
        ({"spec": {**WANTED["spec"], "ports": [{"name": "http", "port": 81}]}}, True),
        ({"spec": {**WANTED["spec"], "ports": []}}, True),
        ({"spec": {**WANTED["spec"], "list": ["b", "a"]}}, True),
        ({"spec": {k: v for k, v in WANTED["spec"].items() if k != "replicas"}}, True),
    ],
)
def test_only_our_own_fields_are_compared(live: dict[str, Any], expected: bool) -> None:
    assert compare.differs(live, WANTED) is expected
