"""Events for the owner of a service, one small function per kind. They make manifests; nothing is sent here."""

import hashlib
import uuid
from collections.abc import Mapping

from llmservice_api.plan_status import timestamp
from llmservice_api.resource import LLMService
from llmservice_api.status import Change, Condition
from llmservice_core.contract import FIELD_MANAGER, REASON_ROLLOUT_PAUSE
from llmservice_core.model import Plan, Pool
from llmservice_operator.apply import Restored
from llmservice_operator.kinds import EVENT, Manifest

LONGEST = 1000
"""The API server takes 1024 characters of message."""


def change_text(before: Mapping[Pool, int], after: Mapping[Pool, int], plan: Plan) -> str:
    """`decode 1 -> 3: why` for each pool that changed."""
    known = [p for p in plan.pools if p.pool in before and p.pool in after]
    changed = [(p, f"{before[p.pool]} -> {after[p.pool]}") for p in known if after[p.pool] != before[p.pool]]
    return "; ".join(f"{p.pool.value} {_why(change, p.message)}" for p, change in changed)


def _why(change: str, message: str) -> str:
    """The plan's own sentence begins with its change. What was written before a restart is told with what holds now."""
    return message if message.startswith(f"{change}:") else f"{change}, not by this decision; now {message}"


def scaled(service: LLMService, change: Change, plan: Plan, last: Change | None) -> Manifest:
    """Named after the change and the one before it, so that an operator that was killed does not tell it twice."""
    name = _digest(service.metadata.uid, last, change.from_, change.to)
    return _event(service, change.reason, change.message, plan.time_s, action="Scale", name=name)


def restored(service: LLMService, one: Restored, now_s: float) -> Manifest:
    text = f"{one.kind} {one.name} was {one.what} by somebody else and is put back"
    return _event(service, "Restored", text, now_s, action="Restore", kind="Warning")


def paused(service: LLMService, revision: str, text: str, now_s: float) -> Manifest:
    """Named after the revision: one rollout is told of once."""
    name = _digest(service.metadata.uid, "pause", revision)
    return _event(service, REASON_ROLLOUT_PAUSE, text, now_s, action="RollOut", kind="Warning", name=name)


def drain(service: LLMService, pod: Manifest, reason: str, text: str, now_s: float, since: str) -> Manifest:
    """Named after the pod and its drain: the writer may be killed before or after it, and this is told once."""
    name = _digest(pod["metadata"]["uid"], since, reason)
    kind = "Warning" if reason == "DrainDeadlineOver" else "Normal"
    return _event(service, reason, text, now_s, action="Drain", kind=kind, name=name)


def flipped(service: LLMService, condition: Condition, now_s: float) -> Manifest:
    """`condition` has just become True (a bad thing) or False (of a good one), or it is over."""
    bad = condition.status == ("True" if condition.type == "Degraded" else "False")
    text = f"{condition.type} is {condition.status}: {condition.message}"
    kind = "Warning" if bad else "Normal"
    return _event(service, condition.reason, text, now_s, action="Observe", kind=kind)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _event(
    service: LLMService,
    reason: str,
    text: str,
    now_s: float,
    *,
    action: str,
    kind: str = "Normal",
    name: str | None = None,
) -> Manifest:
    time = timestamp(now_s)
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {
            "name": f"{service.metadata.name}.{name or uuid.uuid4().hex[:16]}",
            "namespace": service.metadata.namespace,
        },
        "involvedObject": _about(service),
        "reason": reason,
        "message": text[:LONGEST],
        "type": kind,
        "action": action,
        "count": 1,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": FIELD_MANAGER,
    }


def _about(service: LLMService) -> Manifest:
    return {
        "apiVersion": service.api_version,
        "kind": service.kind,
        "name": service.metadata.name,
        "namespace": service.metadata.namespace,
        "uid": service.metadata.uid,
    }
