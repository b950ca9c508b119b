"""What pods and Deployments (plain dicts of the API) say about pool sizes and start-up times. Pure; reads no clock."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from llmservice_core import contract
from llmservice_core.model import Pool, PoolSeen

Manifest = Mapping[str, Any]

RECENT_PODS = 20
"""Start-up times of the newest so many Ready pods count: an old image or node says little about the next pod."""


def pool_seen(pods: Sequence[Manifest], deployments: Sequence[Manifest]) -> tuple[PoolSeen, ...]:
    """One record per pool that has a Deployment; `desired` is the sum over its revisions' spec.replicas."""
    pools = sorted({p for d in deployments if (p := _pool(d)) is not None})
    return tuple(_seen(pool, pods, deployments) for pool in pools)


def start_up_seconds(pods: Sequence[Manifest]) -> float | None:
    """Created-to-Ready time, p90 over the newest engine pods that are Ready now; None before the first.

    A pod whose container restarted is left out: its Ready time is that of the recovery, not of the start.
    """
    engines = [p for p in pods if _label(p, contract.LABEL_COMPONENT) == contract.COMPONENT_ENGINE]
    known = [(created, ready - created) for p in engines if (created := _created_s(p)) and (ready := _ready_s(p))]
    recent = sorted(seconds for _, seconds in sorted(known)[-RECENT_PODS:])
    return recent[math.ceil(0.9 * len(recent)) - 1] if recent else None


def _seen(pool: Pool, pods: Sequence[Manifest], deployments: Sequence[Manifest]) -> PoolSeen:
    states = [_state(p) for p in pods if _pool(p) is pool]
    return PoolSeen(
        pool=pool,
        desired=sum(int(d.get("spec", {}).get("replicas", 1)) for d in deployments if _pool(d) is pool),
        ready=states.count("ready"),
        starting=states.count("starting"),
        draining=states.count("draining"),
        unschedulable=states.count("unschedulable"),
    )


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


def _pool(manifest: Manifest) -> Pool | None:
    if _label(manifest, contract.LABEL_COMPONENT) == contract.COMPONENT_ROUTER:
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


def _ready_s(pod: Manifest) -> float | None:
    """When the pod became Ready for the first time; None if it is not Ready or a container of it restarted."""
    ready = _condition(pod, "Ready")
    containers = pod.get("status", {}).get("containerStatuses") or []
    if ready.get("status") != "True" or any(c.get("restartCount") for c in containers):
        return None
    return _seconds(ready.get("lastTransitionTime"))


def _seconds(timestamp: object) -> float | None:
    """RFC 3339 text, or the datetime that the client library makes of it."""
    if isinstance(timestamp, datetime):
        return timestamp.timestamp()
    if not isinstance(timestamp, str):
        return None
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
