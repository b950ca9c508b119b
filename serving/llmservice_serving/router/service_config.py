"""What the router knows of its LLMService: names and classes. Read from the manifest, never from pydantic's model.

The API server has already refused what is wrong; a manifest that still cannot be read is reported and the last good
one stays in force.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmservice_api.durations import seconds
from llmservice_core.contract import CONDITION_ASLEEP, CONDITION_PROGRESSING, HEADER_CLASS, REASON_ROLLOUT_PAUSE
from llmservice_core.model import Reason, ServiceClass, Slo
from llmservice_core.picking import Policy
from llmservice_core.planner_facts import DEFAULT_START_UP_S
from llmservice_core.slack import Slack, slack_of
from llmservice_serving.router.errors import Refusal

DRAIN_DEADLINE_S = 900.0
"""Of a manifest that names none, as the resource has it."""
HELD_FOR = (Reason.SCALED_TO_ZERO, Reason.WAKING)
"""Reasons of condition Asleep while no engine need be there."""


class BadManifest(ValueError):
    """The manifest lacks what a router needs; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    served_name: str
    classes: tuple[ServiceClass, ...]
    routing: Policy = Policy.SHORTEST_QUEUE
    step_tokens: int | None = None
    """Most tokens of an engine's step, where the manifest says it."""
    resumes: bool = True
    """Streams whose engine died go on in another one."""
    slack: Slack | None = None
    """Prompts that decode engines may compute, as the operator's last plan says in the status; None: none."""
    drain_deadline_s: float = DRAIN_DEADLINE_S
    """So long an engine that leaves keeps its requests."""
    needs_keys: bool = False
    """`router.access` is set: a router that holds no keys refuses everybody."""
    start_up_s: float | None = None
    """No engine need serve now, and one that is started takes so long (the service sleeps, wakes, or a rollout pauses
    it): requests are held. None: engines are there."""

    @property
    def default(self) -> ServiceClass:
        return next(c for c in self.classes if c.is_default)

    def class_for(self, header: str | None) -> ServiceClass:
        """The class a request asks for, the default when it asks for none."""
        if header is None:
            return self.default
        for c in self.classes:
            if c.name == header:
                return c
        known = ", ".join(c.name for c in self.classes)
        raise Refusal(400, f"Header {HEADER_CLASS}: there is no class {header!r}; use one of: {known}.")


def from_manifest(manifest: Mapping[str, Any]) -> ServiceConfig:
    try:
        spec = manifest["spec"]
        classes = tuple(_class(c) for c in spec["classes"])
        served_name = spec["model"].get("servedName") or manifest["metadata"]["name"]
        router = spec.get("router") or {}
        routing = Policy(router.get("routing") or Policy.SHORTEST_QUEUE)
        step_tokens = _step_tokens(spec.get("engine") or {})
        start_up_s = _start_up_s(spec, manifest.get("status") or {})
        drain_deadline_s = _drain_deadline_s(spec)
        slack = slack_of(((manifest.get("status") or {}).get("plan") or {}).get("capacity") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadManifest(f"LLMService cannot be read: {type(error).__name__}: {error}") from error
    if sum(c.is_default for c in classes) != 1:
        raise BadManifest("LLMService needs exactly one class with default: true")
    return ServiceConfig(
        served_name=served_name,
        classes=classes,
        routing=routing,
        step_tokens=step_tokens,
        resumes=router.get("resume") is not False,
        slack=slack,
        drain_deadline_s=drain_deadline_s,
        needs_keys=bool(router.get("access")),
        start_up_s=start_up_s,
    )


def _start_up_s(spec: Mapping[str, Any], status: Mapping[str, Any]) -> float | None:
    """As the operator tells it; a service that may sleep is born asleep, before anybody has told so."""
    reasons = {c["type"]: c["reason"] for c in status.get("conditions") or ()}
    asleep = reasons.get(CONDITION_ASLEEP)
    pools = spec.get("pools") or {}
    may_sleep = bool(pools) and all(pool.get("minReplicas") == 0 for pool in pools.values())
    is_awaited = asleep in HELD_FOR or (asleep is None and may_sleep)
    if not is_awaited and reasons.get(CONDITION_PROGRESSING) != REASON_ROLLOUT_PAUSE:
        return None
    observed = ((status.get("plan") or {}).get("inputs") or {}).get("start_up_s")
    return float(observed) if observed else DEFAULT_START_UP_S


def _drain_deadline_s(spec: Mapping[str, Any]) -> float:
    given = ((spec.get("scaling") or {}).get("scaleDown") or {}).get("drainDeadline")
    return DRAIN_DEADLINE_S if given is None else seconds(given)


def _step_tokens(engine: Mapping[str, Any]) -> int | None:
    budget = (engine.get("scheduler") or {}).get("tokenBudget")
    return budget if isinstance(budget, int) else None


def _class(entry: Mapping[str, Any]) -> ServiceClass:
    return ServiceClass(
        name=entry["name"],
        ttft=_slo(entry["ttft"]),
        tbt=_slo(entry["tbt"]),
        weight=float(entry.get("weight", 1)),
        is_default=bool(entry.get("default", False)),
        sheds_late=entry.get("shed") == "Late",
    )


def _slo(entry: Mapping[str, Any]) -> Slo:
    return Slo(target_s=seconds(entry["target"]), percentile=float(entry["percentile"]))
