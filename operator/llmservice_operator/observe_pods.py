"""What pods and Deployments (plain dicts of the API) say about pool sizes and start-up times. Pure; reads no clock."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from llmservice_core import contract
from llmservice_core.model import Pool, PoolSeen
from llmservice_core.observation import ReadySince
from llmservice_core.planner_facts import MOST_START_UP_S
from llmservice_core.samples import p90_start_up_s
from llmservice_operator.child_engine import LOAD_S

Manifest = Mapping[str, Any]
Pod = TypeVar("Pod", bound=Mapping[str, Any])
StartUps = Mapping[str, float]
"""Created-to-Ready seconds of engine pods that exist, by uid."""

ROUTER_START_S = 30.0
"""A router is Ready within seconds of having its image and volumes."""


def pool_seen(pods: Sequence[Manifest], deployments: Sequence[Manifest]) -> tuple[PoolSeen, ...]:
    """One record per pool that has a Deployment; `desired` is the sum over its revisions' spec.replicas."""
    pools = sorted({p for d in deployments if (p := _pool(d)) is not None})
    return tuple(_seen(pool, pods, deployments) for pool in pools)


def ready_since(pods: Sequence[Manifest]) -> ReadySince:
    ready = [p for p in pods if _state(p) == "ready"]
    return ReadySince(
        routers=[_turned_ready_s(p) or 0.0 for p in ready if _component(p) == contract.COMPONENT_ROUTER],
        engines={pool: [_turned_ready_s(p) or 0.0 for p in ready if _pool(p) is pool] for pool in Pool},
    )


def waiting_routers(pods: Sequence[Manifest], now_s: float) -> tuple[int, int]:
    """Router pods on a node, not Ready for longer than a start takes: without their volumes, and running."""
    routers = [p for p in pods if _component(p) == contract.COMPONENT_ROUTER and _state(p) == "starting"]
    late = [p for p in routers if (since_s := _unready_since_s(p)) is not None and now_s - since_s > ROUTER_START_S]
    bare = [p for p in late if _condition(p, "PodReadyToStartContainers").get("status") == "False"]
    run = [p for p in late if p not in bare and p.get("status", {}).get("phase") == "Running"]
    return len(bare), len(run)


def is_ready(pod: Manifest) -> bool:
    return _state(pod) == "ready"


def unplaced(pods: Iterable[Pod], now_s: float, longer_than_s: float) -> list[Pod]:
    """Those that have found no node for so long, also if they are to go since."""
    alive = [p for p in pods if not p["metadata"].get("deletionTimestamp")]
    lost = [(p, c) for p in alive if (c := _condition(p, "PodScheduled")).get("reason") == "Unschedulable"]
    since = [(p, _seconds(c.get("lastTransitionTime"))) for p, c in lost if c.get("status") == "False"]
    return [pod for pod, since_s in since if since_s is not None and now_s - since_s > longer_than_s]


def start_ups(pods: Sequence[Manifest], known: StartUps) -> StartUps:
    """What is `known` of pods that still exist, and the pods that became Ready since.

    The first answer stays: a readiness that comes and goes moves the transition time, and would turn a pod's age into
    its start-up time.
    """
    engines = {_uid(p): p for p in pods if _component(p) == contract.COMPONENT_ENGINE}
    found = {uid: known.get(uid) or _start_up_s(pod) for uid, pod in engines.items()}
    return {uid: seconds for uid, seconds in found.items() if seconds is not None}


def start_up_seconds(pods: Sequence[Manifest], known: StartUps) -> float | None:
    """p90 of created-to-Ready over the newest engine pods of which it is known; None before the first."""
    return p90_start_up_s((created, known[_uid(p)]) for p in pods if _uid(p) in known and (created := _created_s(p)))


def _seen(pool: Pool, pods: Sequence[Manifest], deployments: Sequence[Manifest]) -> PoolSeen:
    own = [p for p in pods if _pool(p) is pool]
    states = [_state(p) for p in own]
    return PoolSeen(
        pool=pool,
        desired=sum(int(d.get("spec", {}).get("replicas", 1)) for d in deployments if _pool(d) is pool),
        ready=states.count("ready"),
        starting=states.count("starting"),
        draining=states.count("draining"),
        unschedulable=states.count("unschedulable"),
        recallable=sum(state == "draining" and _may_stay(p) for p, state in zip(own, states, strict=True)),
    )


def _may_stay(pod: Manifest) -> bool:
    meta = pod.get("metadata", {})
    is_released = (meta.get("annotations") or {}).get(contract.ANNOTATION_COST) == contract.COST_RELEASED
    return not meta.get("deletionTimestamp") and not is_released


def _state(pod: Manifest) -> str:
    """Exactly one of ready, starting, draining, unschedulable, gone (finished pods hold nothing)."""
    meta, status = pod.get("metadata", {}), pod.get("status", {})
    if status.get("phase") in ("Succeeded", "Failed"):
        return "gone"
    if meta.get("deletionTimestamp") or contract.ANNOTATION_DRAIN in (meta.get("annotations") or {}):
        return "draining"
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return "unschedulable"
    return "ready" if _condition(pod, "Ready").get("status") == "True" else "starting"


def _uid(pod: Manifest) -> str:
    return str(pod.get("metadata", {}).get("uid", ""))


def _component(manifest: Manifest) -> str | None:
    return _label(manifest, contract.LABEL_COMPONENT)


def _pool(manifest: Manifest) -> Pool | None:
    if _component(manifest) == contract.COMPONENT_ROUTER:
        return None
    value = _label(manifest, contract.LABEL_POOL)
    return Pool(value) if value in {p.value for p in Pool} else None


def _label(manifest: Manifest, name: str) -> str | None:
    labels = manifest.get("metadata", {}).get("labels") or {}
    return labels.get(name)


def _condition(pod: Manifest, kind: str) -> Manifest:
    conditions = pod.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind), {})


def _created_s(pod: Manifest) -> float | None:
    return _seconds(pod.get("metadata", {}).get("creationTimestamp"))


def _start_up_s(pod: Manifest) -> float | None:
    """None where Ready's transition is plainly not the first: it is a recovery's, or it came too late for a start."""
    created, ready = _created_s(pod), _turned_ready_s(pod)
    containers = pod.get("status", {}).get("containerStatuses") or []
    if created is None or ready is None or any(c.get("restartCount") for c in containers):
        return None
    running = [(c.get("state") or {}).get("running") or {} for c in containers]
    began_s = max((s for c in running if (s := _seconds(c.get("startedAt")))), default=ready)
    is_first = ready - began_s <= LOAD_S and ready - created <= MOST_START_UP_S
    return ready - created if is_first else None


def _turned_ready_s(pod: Manifest) -> float | None:
    """The last time that the pod became Ready; None if it is not."""
    ready = _condition(pod, "Ready")
    return _seconds(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None


def _unready_since_s(pod: Manifest) -> float | None:
    """Since when it could have been Ready; None while it has no node."""
    scheduled, ready = _condition(pod, "PodScheduled"), _condition(pod, "Ready")
    placed_s = _seconds(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None
    return None if placed_s is None else max(placed_s, _seconds(ready.get("lastTransitionTime")) or 0.0)


def _seconds(timestamp: object) -> float | None:
    """RFC 3339 text, or the datetime that the client library makes of it."""
    if isinstance(timestamp, datetime):
        return timestamp.timestamp()
    if not isinstance(timestamp, str):
        return None
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
