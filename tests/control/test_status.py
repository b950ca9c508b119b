"""The status as people read it, and when it is worth a write."""

from dataclasses import replace
from typing import Any

import pytest

from llmservice_api.resource import parse
from llmservice_api.status import Status
from llmservice_core.model import Mode, Pool, PoolSeen, Reason
from llmservice_operator import status
from tests.control.bad_manifests import GOOD
from tests.control.test_conditions import facts, observation, plan, seen, traffic


def built(**changes: Any) -> Status:
    return status.build(Status(), facts(**changes), [], None)


def test_columns_of_prefill_and_decode() -> None:
    summary = built().summary
    assert summary is not None
    assert (summary.prefill, summary.decode, summary.gpus, summary.reason) == ("1/1", "1/1", "3/12", "Steady")
    assert (summary.ttft, summary.tbt, summary.rate) == ("96.0%", "99.5%", "1")


def test_columns_of_a_mixed_pool_without_a_budget() -> None:
    pools = {"mixed": {"maxReplicas": 4}}
    body = {**GOOD, "spec": {**GOOD["spec"], "disaggregation": "Never", "pools": pools, "scaling": {}}}
    mixed = PoolSeen(pool=Pool.MIXED, desired=2, ready=1, starting=1, draining=0, unschedulable=0)
    summary = built(service=parse(body), pools=(mixed,), sizes={Pool.MIXED: 2}).summary
    assert summary is not None
    assert (summary.prefill, summary.decode, summary.gpus) == ("1/2 mixed", "-", "2")


def test_the_worst_class_is_the_one_furthest_below_its_percentile() -> None:
    """batch wants 95 % and has 94 %; interactive wants 95 % and has 99 %."""
    classes = observation(traffic("interactive", ttft=99), traffic("batch", ttft=94))
    summary = built(observation=classes).summary
    assert summary is not None
    assert (summary.ttft, summary.tbt) == ("94.0%", None)


def test_unknown_numbers_are_absent() -> None:
    found = built(observation=None, plan=None).model_dump(by_alias=True, exclude_none=True)
    assert "load" not in found
    assert "plan" not in found
    assert found["classes"][0] == {
        "name": "interactive",
        "ttft": {"target": "500ms", "percentile": 95.0},
        "tbt": {"target": "50ms", "percentile": 99.0},
    }
    assert found["summary"]["reason"] == Mode.AUTO


def test_sizes_before_the_first_decision_are_unknown_and_no_zero() -> None:
    found = built(sizes={}, problem=("Misconfigured", "fix it"))
    assert found.summary is not None
    assert (found.summary.prefill, found.summary.decode) == ("1/?", "1/?")
    pools = found.model_dump(by_alias=True, exclude_none=True)["pools"]
    assert "desired" not in pools["prefill"]
    assert "desired" not in pools["decode"]


def test_gpus_of_pods_that_leave_or_wait_for_a_node_count() -> None:
    leaving = PoolSeen(pool=Pool.DECODE, desired=1, ready=1, starting=0, draining=1, unschedulable=1)
    assert facts(pools=(seen(Pool.PREFILL), leaving)).gpus == 1 + 2 * (1 + 1 + 1)


BASE = built(observation=observation(traffic(ttft=96)))
GUARDED = {**GOOD["spec"], "router": {"access": {"apiKeysSecret": "keys"}}}
REWORDED = parse({"metadata": {"name": "chat", "generation": 7}, "spec": GUARDED})
LATER = [
    ("nothing changed", {}, 1e9, False),
    ("a number within its band", {"observation": observation(traffic(ttft=96.5))}, 1e9, False),
    ("a number outside its band, a minute later", {"observation": observation(traffic(ttft=93))}, 61.0, True),
    ("a reason", {"plan": plan(Reason.DEMAND_UP)}, 1.0, True),
    ("a pod count", {"pools": (seen(Pool.PREFILL, 2), seen(Pool.DECODE))}, 1.0, True),
    ("a condition", {"router_ready": 0}, 1.0, True),
    ("a sentence", {"plan": plan(Reason.STEADY, "in other words")}, 1e9, False),
    ("other numbers in a condition", {"problem": None, "observation": observation(traffic(ttft=96.9))}, 1e9, False),
    ("a rollout", {"rolling_out": True}, 1.0, True),
    ("other words in a condition", {"service": REWORDED}, 61.0, True),
    ("other words in a condition, soon after", {"service": REWORDED}, 59.0, False),
    ("a size", {"sizes": {Pool.PREFILL: 1, Pool.DECODE: 2}}, 1.0, True),
    ("a revision", {"revision": "def"}, 1.0, True),
]


@pytest.mark.parametrize(("changes", "since_s", "expected"), [r[1:] for r in LATER], ids=[r[0] for r in LATER])
def test_what_is_worth_a_write(changes: dict[str, Any], since_s: float, expected: bool) -> None:
    new = built(**{"observation": observation(traffic(ttft=96)), "now_s": 9000.0, **changes})
    assert status.is_worth_writing(BASE, new, since_s) is expected


def test_numbers_alone_wait_for_their_minute() -> None:
    rate = replace(traffic(ttft=96), arrivals_rps=5.0)
    new = built(observation=observation(rate))
    assert not status.is_worth_writing(BASE, new, 59.0)
    assert status.is_worth_writing(BASE, new, 60.0)


def test_history_keeps_the_newest_changes() -> None:
    change = status.change({Pool.DECODE: 1}, {Pool.DECODE: 2}, plan(Reason.DEMAND_UP))
    found = status.build(Status(), facts(), [change] * 30, None).history
    assert len(found) == 20
    assert found[0].model_dump(by_alias=True, exclude_none=True)["from"] == {"decode": 1}


def test_a_status_survives_its_way_through_the_api_server() -> None:
    found = built()
    assert Status.model_validate(found.model_dump(mode="json", by_alias=True, exclude_none=True)) == found
