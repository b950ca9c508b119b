"""Events for the owner of a service, one small function per kind. They make manifests; nothing is sent here."""

import uuid
from collections.abc import Mapping

from llmservice_api.resource import LLMService
from llmservice_api.status import Condition
from llmservice_core.contract import FIELD_MANAGER
from llmservice_core.model import Plan, Pool
from llmservice_operator.apply import Restored
from llmservice_operator.conditions import timestamp
from llmservice_operator.kinds import EVENT, Manifest

LONGEST = 1000
"""The API server takes 1024 characters of message."""


def change_text(before: Mapping[Pool, int], after: Mapping[Pool, int], plan: Plan) -> str:
    """`decode 1 -> 3: why` for each pool that changed; the plan's own sentence begins with the sizes."""
    changed = {p.pool: p.message for p in plan.pools if after[p.pool] != before[p.pool]}
    return "; ".join(f"{pool.value} {message}" for pool, message in changed.items())


def scaled(service: LLMService, before: Mapping[Pool, int], after: Mapping[Pool, int], plan: Plan) -> Manifest:
    return _event(service, str(plan.reason), change_text(before, after, plan), plan.time_s, action="Scale")


def restored(service: LLMService, one: Restored, now_s: float) -> Manifest:
    text = f"{one.kind} {one.name} was {one.what} by somebody else and is put back"
    return _event(service, "Restored", text, now_s, action="Restore", kind="Warning")


def flipped(service: LLMService, condition: Condition, now_s: float) -> Manifest:
    """`condition` has just become True (a bad thing) or False (of a good one), or it is over."""
    bad = condition.status == ("True" if condition.type == "Degraded" else "False")
    text = f"{condition.type} is {condition.status}: {condition.message}"
    kind = "Warning" if bad else "Normal"
    return _event(service, condition.reason, text, now_s, action="Observe", kind=kind)


def _event(service: LLMService, reason: str, text: str, now_s: float, *, action: str, kind: str = "Normal") -> Manifest:
    time = timestamp(now_s)
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {
            "name": f"{service.metadata.name}.{uuid.uuid4().hex[:16]}",
            "namespace": service.metadata.namespace,
        },
        "involvedObject": {
            "apiVersion": service.api_version,
            "kind": service.kind,
            "name": service.metadata.name,
            "namespace": service.metadata.namespace,
            "uid": service.metadata.uid,
        },
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
