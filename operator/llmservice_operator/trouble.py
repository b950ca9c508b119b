"""Which pod does not become Ready, and why, as its containers and the scheduler tell. Pure; reads no clock.

Only words that Kubernetes wrote; what the engine itself said is in its log (`last_words.py`). Engines of the present
revision come first and routers last, then the kind of trouble that a person must mend before it can end.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from llmservice_core import contract
from llmservice_core.model import Reason
from llmservice_operator.kinds import Manifest, annotations_of, labels_of, name_of

CRASHED: Final = "EngineCrashed"
ROUTER_CRASHED: Final = "RouterCrashed"
IMAGE: Final = "ImageNotPulled"
NOT_STARTED: Final = "ContainerNotStarted"
OVERDUE: Final = "ProgressDeadlineExceeded"
ORDER: Final = (CRASHED, ROUTER_CRASHED, IMAGE, NOT_STARTED, str(Reason.UNSCHEDULABLE), OVERDUE)
"""Which is told of when there are several: the surer that it does not end by itself, the earlier."""
NO_IMAGE: Final = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
HARMLESS: Final = ("ContainerCreating", "PodInitializing", "CrashLoopBackOff")
"""Waiting for these is no trouble, or trouble that the last end of the container tells better."""
COMPONENTS: Final = (contract.COMPONENT_ENGINE, contract.COMPONENT_ROUTER)
ENDED: Final = ("Succeeded", "Failed")
LONGEST: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """`others`: how many pods beside this one have some. `container`: whose log may say more; None: none ran."""

    reason: str
    pool: str
    """`router` for one."""
    pod: str
    revision: str
    """Empty for a router: there are no two of it."""
    why: str
    container: str | None = None
    is_over: bool = False
    """That container has begun anew: the log of the one before is meant."""
    run: str = ""
    """Changes with every start of the container."""
    others: int = 0


def find(pods: Sequence[Manifest], deployments: Iterable[Manifest], revision: str | None) -> Trouble | None:
    """The trouble to tell of, of pods that nobody has deleted."""
    alive = [p for p in pods if _component(p) in COMPONENTS and not p["metadata"].get("deletionTimestamp")]
    found = [t for pod in alive if (t := _of_pod(pod)) is not None]
    troubled = {t.pod for t in found}
    late = {name for d in deployments if _is_overdue(d) for name in _pods_of(d, alive)} - troubled
    found += [_overdue(pod) for pod in alive if name_of(pod) in late]
    worst = min(found, key=lambda t: _order(t, revision), default=None)
    return None if worst is None else replace(worst, others=len(found) - 1)


def _order(trouble: Trouble, revision: str | None) -> tuple[bool, bool, int, str]:
    is_router = trouble.pool == contract.COMPONENT_ROUTER
    return is_router, trouble.revision != revision, ORDER.index(trouble.reason), trouble.pod


def sentence(trouble: Trouble, last_words: Sequence[str] | str, *, earlier_serves: bool | None) -> str:
    """`last_words`: lines of its log, or why there are none. `earlier_serves` None: no rollout is under way."""
    which = f" of revision {trouble.revision}" if trouble.revision else ""
    told = f"{trouble.pool} pod {trouble.pod}{which}: {trouble.why}"
    if isinstance(last_words, str):
        told += f"; {last_words}" if last_words else ""
    else:
        told += "; its last lines: " + " | ".join(last_words)
    if trouble.others:
        told += f"; {trouble.others} more pods are in trouble"
    if earlier_serves is None or not trouble.revision:
        return told
    serves = "the earlier revision serves on" if earlier_serves else "no earlier revision serves"
    return f"{told}; the rollout stands still, {serves}: correct the spec or apply the one before"


def _of_pod(pod: Manifest) -> Trouble | None:
    status = pod.get("status") or {}
    if status.get("phase") in ENDED:
        return None  # an evicted pod stays as a record, and another one has taken its place
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == Reason.UNSCHEDULABLE:
        return _trouble(pod, str(Reason.UNSCHEDULABLE), f"finds no node{_more(scheduled.get('message'))}")
    return next(_of_containers(pod, status), None)


def _of_containers(pod: Manifest, status: Mapping[str, Any]) -> Iterator[Trouble]:
    for one in (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or []):
        state, name = one.get("state") or {}, one["name"]
        waiting, ended = state.get("waiting") or {}, state.get("terminated")
        last = ended or (one.get("lastState") or {}).get("terminated")
        if last is not None and not one.get("ready") and (last.get("exitCode") or not ended):
            yield _crashed(pod, one, last, is_over=not ended)
        elif (reason := waiting.get("reason")) and reason not in HARMLESS:
            kind = IMAGE if reason in NO_IMAGE else NOT_STARTED
            yield _trouble(pod, kind, f"container {name} waits: {reason}{_more(waiting.get('message'))}")


def _crashed(pod: Manifest, one: Mapping[str, Any], last: Mapping[str, Any], *, is_over: bool) -> Trouble:
    restarts = one.get("restartCount") or 0
    why = f"container {one['name']} ended with exit code {last.get('exitCode')} ({last.get('reason') or 'no reason'})"
    why += f"{_more(last.get('message'))}, restarted {restarts} times"
    kind = ROUTER_CRASHED if _component(pod) == contract.COMPONENT_ROUTER else CRASHED
    return _trouble(pod, kind, why, container=one["name"], is_over=is_over, run=f"{restarts}")


def _overdue(pod: Manifest) -> Trouble:
    why = "not Ready within the time that a start may take"
    return _trouble(pod, OVERDUE, why, container=_component(pod))


def _trouble(
    pod: Manifest, reason: str, why: str, container: str | None = None, is_over: bool = False, run: str = ""
) -> Trouble:
    labels, meta = labels_of(pod), pod["metadata"]
    return Trouble(
        reason=reason,
        pool=labels.get(contract.LABEL_POOL) or _component(pod),
        pod=name_of(pod),
        revision=labels.get(contract.LABEL_REVISION, ""),
        why=why,
        container=container,
        is_over=is_over,
        run=f"{meta.get('uid', '')}/{run}",
    )


def _component(pod: Manifest) -> str:
    """Whose container has the same name."""
    return labels_of(pod).get(contract.LABEL_COMPONENT, "")


def _is_overdue(deployment: Manifest) -> bool:
    return _condition(deployment.get("status") or {}, "Progressing").get("reason") == OVERDUE


def _pods_of(deployment: Manifest, pods: Iterable[Manifest]) -> Iterator[str]:
    """Those that are not Ready; one that drains is not meant to be."""
    names = (contract.LABEL_COMPONENT, contract.LABEL_POOL, contract.LABEL_REVISION)
    wanted = {name: value for name in names if (value := labels_of(deployment).get(name)) is not None}
    for pod in pods:
        is_ready = _condition(pod.get("status") or {}, "Ready").get("status") == "True"
        is_meant_to_be = contract.ANNOTATION_DRAIN not in annotations_of(pod)
        if wanted.items() <= labels_of(pod).items() and is_meant_to_be and not is_ready:
            yield name_of(pod)


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((c for c in status.get("conditions") or [] if c.get("type") == kind), {})


def _more(message: str | None) -> str:
    text = " ".join((message or "").split())
    return f": {text[:LONGEST]}" if text else ""
