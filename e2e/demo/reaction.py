"""How long from a step in load to a pod that serves, split into metric, decision and pod start. Pure, on records."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmservice_core import contract


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTimes:
    pool: str
    created_s: float
    ready_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A plan that grew a pool: when it was made and how old its newest sample was."""

    pool: str
    time_s: float
    sample_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """Seconds: load step -> newest sample of the plan -> plan -> first pod made after it is Ready.

    Where the sample is unknown, `decision_s` counts from the load step.
    """

    pool: str
    metric_s: float | None
    decision_s: float | None
    pod_start_s: float | None


def reaction(load_step_s: float, decision: Decision | None, pods: Iterable[PodTimes], pool: str) -> Reaction:
    if decision is None:
        return Reaction(pool=pool, metric_s=None, decision_s=None, pod_start_s=None)
    # Creation times are whole seconds: a pod made within the second of the decision is of the decision.
    ready = [p.ready_s for p in pods if p.pool == pool and p.created_s >= int(decision.time_s) and p.ready_s]
    sample_s = decision.sample_s
    return Reaction(
        pool=pool,
        metric_s=None if sample_s is None else sample_s - load_step_s,
        decision_s=decision.time_s - (load_step_s if sample_s is None else sample_s),
        pod_start_s=min(ready) - decision.time_s if ready else None,
    )


def decision_in(service: Mapping[str, Any], since_s: float, pool: str) -> Decision | None:
    """The first change since then that made `pool` larger; the plan in the status may be a later one already."""
    status = service["status"]
    grown = [c for c in status.get("history", []) if c["to"].get(pool, 0) > c["from"].get(pool, 0)]
    change = min((c for c in grown if seconds(c["time"]) >= since_s), key=lambda c: seconds(c["time"]), default=None)
    if change is None:
        return None
    plan, time_s = status["plan"], seconds(change["time"])
    age_s = plan["inputs"].get("metrics_age_s") if plan["time"] == change["time"] else None
    return Decision(pool=pool, time_s=time_s, sample_s=None if age_s is None else time_s - float(age_s))


def seen_again(known: Mapping[str, PodTimes], now: Mapping[str, PodTimes]) -> dict[str, PodTimes]:
    """When a pod first became Ready stays known, also once it leaves."""
    return {**known, **{name: t for name, t in now.items() if name not in known or known[name].ready_s is None}}


def pod_times(pods: Iterable[Mapping[str, Any]]) -> dict[str, PodTimes]:
    """By name; a pod that is not Ready now has no ready time."""
    return {p["metadata"]["name"]: _times(p) for p in pods if contract.LABEL_POOL in p["metadata"]["labels"]}


def pool_of(pod: Mapping[str, Any]) -> str | None:
    """None: no engine's pod."""
    pool: str | None = pod["metadata"]["labels"].get(contract.LABEL_POOL)
    return pool


def _times(pod: Mapping[str, Any]) -> PodTimes:
    ready = [
        seconds(c["lastTransitionTime"])
        for c in pod["status"].get("conditions", [])
        if c["type"] == "Ready" and c["status"] == "True"
    ]
    return PodTimes(
        pool=pod["metadata"]["labels"][contract.LABEL_POOL],
        created_s=seconds(pod["metadata"]["creationTimestamp"]),
        ready_s=ready[0] if ready else None,
    )


def seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
