"""Pods and Deployments as the API gives them: which pool, which state, how long they took to start."""

from datetime import UTC, datetime
from typing import Any

import pytest

from llmservice_core import contract
from llmservice_core.model import Pool
from llmservice_operator.observe_pods import pool_seen, start_up_seconds

CREATED = "2026-01-01T10:00:00Z"


def pod(pool: str = "decode", component: str = contract.COMPONENT_ENGINE, **changes: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "labels": {contract.LABEL_POOL: pool, contract.LABEL_COMPONENT: component},
            "creationTimestamp": changes.get("created", CREATED),
            **changes.get("metadata", {}),
        },
        "status": {"phase": changes.get("phase", "Running"), **changes.get("status", {})},
    }


def conditions(*rows: tuple[str, str, str | None], at: object = None) -> dict[str, Any]:
    listed = [{"type": t, "status": s, "reason": r, "lastTransitionTime": at} for t, s, r in rows]
    return {"status": {"conditions": listed}}


def ready(at: object = "2026-01-01T10:00:30Z", created: object = CREATED, **changes: Any) -> dict[str, Any]:
    return pod(created=created, **conditions(("Ready", "True", None), at=at), **changes)


def deployment(pool: str, replicas: int | None, component: str = contract.COMPONENT_ENGINE) -> dict[str, Any]:
    spec = {} if replicas is None else {"replicas": replicas}
    labels = {contract.LABEL_POOL: pool, contract.LABEL_COMPONENT: component}
    return {"metadata": {"labels": labels}, "spec": spec}


STATES = {
    "ready": (ready(), "ready"),
    "running but not ready": (pod(**conditions(("Ready", "False", None))), "starting"),
    "pending, being pulled": (pod(phase="Pending"), "starting"),
    "no node": (
        pod(phase="Pending", **conditions(("PodScheduled", "False", "Unschedulable"))),
        "unschedulable",
    ),
    "gated": (pod(phase="Pending", **conditions(("PodScheduled", "False", "SchedulingGated"))), "starting"),
    "being deleted": (pod(metadata={"deletionTimestamp": CREATED}), "draining"),
    "drained by us": (pod(metadata={"annotations": {contract.ANNOTATION_DRAIN: CREATED}}), "draining"),
    "other annotations": (pod(metadata={"annotations": {"a": "b"}}), "starting"),
    "evicted": (pod(phase="Failed"), "gone"),
    "done": (pod(phase="Succeeded"), "gone"),
}


@pytest.mark.parametrize("name", STATES)
def test_states(name: str) -> None:
    one, state = STATES[name]
    (got,) = pool_seen([one], [deployment("decode", 1)])
    found = {s for s in ("ready", "starting", "draining", "unschedulable") if getattr(got, s)}
    assert found == ({state} - {"gone"})


def test_pools_and_revisions_add_up() -> None:
    pods = [ready(), ready(), pod("prefill"), pod("", component=contract.COMPONENT_ROUTER)]
    deployments = [
        deployment("decode", 2),
        deployment("decode", 1),
        deployment("prefill", None),
        deployment("", 1, component=contract.COMPONENT_ROUTER),
    ]
    got = {p.pool: (p.desired, p.ready, p.starting) for p in pool_seen(pods, deployments)}
    assert got == {Pool.DECODE: (3, 2, 0), Pool.PREFILL: (1, 0, 1)}


def test_no_deployment_no_pool() -> None:
    assert pool_seen([ready()], []) == ()


def test_a_foreign_pool_label_is_ignored() -> None:
    assert pool_seen([pod("gpu")], [deployment("gpu", 3)]) == ()


def test_start_up_is_the_90th_percentile() -> None:
    pods = [ready(at=f"2026-01-01T10:00:{20 + k:02d}Z") for k in range(10)]
    assert start_up_seconds(pods) == 28.0


def test_start_up_takes_datetimes_of_the_client_library() -> None:
    created = datetime(2026, 1, 1, 10, 0, 0, tzinfo=UTC)
    assert start_up_seconds([ready(at=datetime(2026, 1, 1, 10, 1, 0, tzinfo=UTC), created=created)]) == 60.0


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(pod(), id="never ready"),
        pytest.param(pod(**conditions(("Ready", "False", None), at=CREATED)), id="not ready now"),
        pytest.param(ready(component=contract.COMPONENT_ROUTER), id="router"),
        pytest.param(
            pod(status={**conditions(("Ready", "True", None), at="2026-01-01T12:00:00Z")["status"],
                        "containerStatuses": [{"restartCount": 1}]}),
            id="restarted: ready again is not start-up",
        ),
    ],
)  # fmt: skip
def test_pods_that_say_nothing_about_start_up(one: dict[str, Any]) -> None:
    assert start_up_seconds([one]) is None


def test_only_recent_pods_count() -> None:
    slow = [ready(at="2026-01-01T11:00:00Z") for _ in range(30)]
    fast = [ready(created="2026-01-02T10:00:00Z", at="2026-01-02T10:00:30Z") for _ in range(20)]
    assert start_up_seconds([*slow, *fast]) == 30.0
