"""Pods and Deployments as the API gives them: which pool, which state, how long they took to start."""

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from llmservice_core import contract
from llmservice_core.model import Pool
from llmservice_operator.observe_pods import pool_seen, ready_since, start_up_seconds, start_ups, waiting_routers

CREATED = "2026-01-01T10:00:00Z"
CREATED_S = datetime(2026, 1, 1, 10, tzinfo=UTC).timestamp()
_uids = itertools.count()


def pod(pool: str = "decode", component: str = contract.COMPONENT_ENGINE, **changes: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "labels": {contract.LABEL_POOL: pool, contract.LABEL_COMPONENT: component},
            "creationTimestamp": changes.get("created", CREATED),
            "uid": f"uid-{next(_uids)}",
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


def start_up_s(*pods: dict[str, Any]) -> float | None:
    """As an operator sees it that has just started."""
    return start_up_seconds(pods, start_ups(pods, {}))


def test_start_up_is_the_90th_percentile() -> None:
    assert start_up_s(*(ready(at=f"2026-01-01T10:00:{20 + k:02d}Z") for k in range(10))) == 28.0


def test_start_up_takes_datetimes_of_the_client_library() -> None:
    created = datetime(2026, 1, 1, 10, 0, 0, tzinfo=UTC)
    assert start_up_s(ready(at=datetime(2026, 1, 1, 10, 1, 0, tzinfo=UTC), created=created)) == 60.0


def ran(at: str, began: str, restarts: int = 0) -> dict[str, Any]:
    """Ready since `at`, its container running since `began`."""
    container = {"restartCount": restarts, "state": {"running": {"startedAt": began}}}
    status = conditions(("Ready", "True", None), at=at)["status"]
    return pod(status={**status, "containerStatuses": [container]})


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(pod(), id="never ready"),
        pytest.param(pod(**conditions(("Ready", "False", None), at=CREATED)), id="not ready now"),
        pytest.param(ready(component=contract.COMPONENT_ROUTER), id="router"),
        pytest.param(
            ran(at="2026-01-01T10:20:00Z", began="2026-01-01T10:19:00Z", restarts=1),
            id="restarted: ready again is not start-up",
        ),
        pytest.param(ready(at="2026-01-04T10:00:00Z"), id="three days old, and its readiness came back just now"),
        pytest.param(ready(at="2026-01-01T10:30:01Z"), id="waited for a GPU: a start takes half an hour at most"),
        pytest.param(
            ran(at="2026-01-01T10:16:00Z", began="2026-01-01T10:00:50Z"),
            id="weights never take that long to load: a flap",
        ),
    ],
)
def test_pods_that_say_nothing_about_start_up(one: dict[str, Any]) -> None:
    assert start_up_s(one) is None


def test_a_node_that_an_autoscaler_brought_counts() -> None:
    assert start_up_s(ran(at="2026-01-01T10:21:00Z", began="2026-01-01T10:15:00Z")) == 1260.0


def test_only_recent_pods_count() -> None:
    slow = [ready(at="2026-01-01T10:20:00Z") for _ in range(30)]
    fast = [ready(created="2026-01-02T10:00:00Z", at="2026-01-02T10:00:30Z") for _ in range(20)]
    assert start_up_s(*slow, *fast) == 30.0


def test_the_first_ready_stays_whatever_happens_to_the_pod_later() -> None:
    """Ready after 30 s; five minutes later its readiness goes and comes back, and the container restarts."""
    one = ready()
    known = start_ups([one], {})
    later = [
        {**one, **conditions(("Ready", "False", None), at="2026-01-01T10:05:00Z")},
        {**one, **conditions(("Ready", "True", None), at="2026-01-01T10:05:20Z")},
        {
            **one,
            **ran(at="2026-01-01T10:09:00Z", began="2026-01-01T10:08:00Z", restarts=1),
            "metadata": one["metadata"],
        },
    ]
    for now in later:
        known = start_ups([now], known)
        assert start_up_seconds([now], known) == 30.0


def test_pods_that_are_gone_are_forgotten() -> None:
    one = ready()
    assert start_ups([], start_ups([one], {})) == {}


def test_who_is_ready_since_when() -> None:
    pods = [
        ready(at="2026-01-01T10:00:30Z"),
        ready("2026-01-01T10:00:40Z", pool="prefill"),
        ready("2026-01-01T10:00:50Z", pool="", component=contract.COMPONENT_ROUTER),
        ready(metadata={"deletionTimestamp": CREATED}),
        ready(pool="", component=contract.COMPONENT_ROUTER, metadata={"deletionTimestamp": CREATED}),
        pod(**conditions(("Ready", "False", None), at=CREATED)),
        pod("", component=contract.COMPONENT_ROUTER),
    ]
    got = ready_since(pods)
    assert got.routers == [CREATED_S + 50.0]
    assert got.engines == {Pool.DECODE: [CREATED_S + 30.0], Pool.PREFILL: [CREATED_S + 40.0], Pool.MIXED: []}


ROUTER = contract.COMPONENT_ROUTER
PLACED, UNREADY = ("PodScheduled", "True", None), ("Ready", "False", None)
BARE = ("PodReadyToStartContainers", "False", None)


def router(*rows: tuple[str, str, str | None], phase: str = "Running", component: str = ROUTER) -> dict[str, Any]:
    return pod("", component, phase=phase, **conditions(*rows, at=CREATED))


@pytest.mark.parametrize(
    ("what", "found", "expected"),
    [
        ("its Secret is missing", router(PLACED, UNREADY, BARE, phase="Pending"), (1, 0)),
        ("it runs without keys", router(PLACED, UNREADY), (0, 1)),
        ("its image is being pulled", router(PLACED, UNREADY, phase="Pending"), (0, 0)),
        ("it has no node", router(("PodScheduled", "False", "Unschedulable"), BARE, phase="Pending"), (0, 0)),
        ("it is Ready", router(PLACED, ("Ready", "True", None)), (0, 0)),
        ("an engine", router(PLACED, UNREADY, BARE, component=contract.COMPONENT_ENGINE), (0, 0)),
    ],
)
def test_routers_that_wait(what: str, found: dict[str, Any], expected: tuple[int, int]) -> None:
    assert waiting_routers([found], CREATED_S + 31) == expected, what
    assert waiting_routers([found], CREATED_S + 29) == (0, 0), "a start takes a while"


def test_a_router_that_has_only_just_lost_its_readiness_does_not_wait_yet() -> None:
    """As those without keys do, for the moment until their successors with keys are there."""
    late = conditions(UNREADY, at="2026-01-01T12:00:00Z")["status"]["conditions"]
    one = router(PLACED)
    one["status"]["conditions"] += late
    assert waiting_routers([one], CREATED_S + 7200 + 20) == (0, 0)
    assert waiting_routers([one], CREATED_S + 7200 + 40) == (0, 1)
