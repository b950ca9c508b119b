"""What a pod template of an LLMService may ask for under `operator.podTemplate: Restricted`, the default. Pure.

The bar is the Pod Security Standard *restricted*, whether or not the namespace enforces it: who may write an LLMService
need not be allowed to make privileged pods, and the operator must not make them in his place. What a template says is
refused with its place; what it leaves unsaid is filled in (`locked`), so that the pod as a whole meets the standard.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from llmservice_operator.errors import Misconfigured
from llmservice_operator.kinds import Manifest

USER = 65532
"""User and group of our pods: the number that images without root made customary."""


class PodTemplate(StrEnum):
    RESTRICTED = "Restricted"
    FULL = "Full"


VOLUMES = ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")
"""Kinds of volumes that the standard allows; hostPath is not among them."""
_CAPABILITIES = ("NET_BIND_SERVICE",)
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_ACCOUNT = ("serviceAccountName", "serviceAccount", "automountServiceAccountToken")
_NEVER = {
    "spec": ("hostNetwork", "hostPID", "hostIPC", *_ACCOUNT),
    "securityContext": ("privileged", "allowPrivilegeEscalation", "seLinuxOptions", "sysctls", "windowsOptions"),
}
"""Fields that must be absent, false or empty."""
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_HOOKS = ("postStart", "preStop")

Asked = tuple[str, str]
"""The place under the template, and what to do about it."""

_REMOVE = "remove it"


def pod_context() -> Manifest:
    """Of every pod that we make."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_context() -> Manifest:
    """Of every container that we make."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def refuse(template: Manifest, path: str) -> None:
    """Misconfigured with the first thing in `template` that only PodTemplate.FULL allows. `path`: where it stands."""
    for place, remedy in _asked(template):
        raise Misconfigured(
            f"{path}.{place} is not allowed in pod templates: {remedy}, or ask whoever installed the operator to set"
            f" operator.podTemplate: {PodTemplate.FULL} in its chart (docs/security.md)"
        )


def locked(pod: Manifest) -> Manifest:
    """The pod's spec with what the standard wants to be said and its template left out."""
    made = {**pod, "securityContext": {**pod_context(), **pod.get("securityContext", {})}}
    for field in ("containers", "initContainers"):
        if field in pod:
            made[field] = [{**c, "securityContext": _locked(c.get("securityContext", {}))} for c in pod[field]]
    return made


def _locked(context: Manifest) -> Manifest:
    capabilities = {**_mapping(context.get("capabilities")), "drop": ["ALL"]}
    return {**context, "allowPrivilegeEscalation": False, "capabilities": capabilities}


def _asked(template: Manifest) -> Iterator[Asked]:
    for name in template.get("metadata", {}).get("annotations", {}):
        if str(name).startswith(_APPARMOR):
            yield f"metadata.annotations[{name}]", _REMOVE
    spec = template.get("spec", {})
    yield from _flags(spec, "spec", "spec")
    yield from _context(spec, "spec")
    for volume in spec.get("volumes", []):
        yield from _volume(volume, f"spec.volumes[{volume['name']}]")
    for field in ("containers", "initContainers"):
        for container in spec.get(field, []):
            yield from _container(container, f"spec.{field}[{container['name']}]")


def _flags(node: Mapping[str, Any], kind: str, place: str) -> Iterator[Asked]:
    yield from ((f"{place}.{field}", _REMOVE) for field in _NEVER[kind] if node.get(field))


def _volume(volume: Manifest, place: str) -> Iterator[Asked]:
    for kind in volume:
        if kind != "name" and kind not in VOLUMES:
            yield f"{place}.{kind}", "use a persistentVolumeClaim"


def _container(container: Manifest, place: str) -> Iterator[Asked]:
    yield from _context(container, place)
    for port in _list(container.get("ports")):
        if _mapping(port).get("hostPort"):
            yield f"{place}.ports.hostPort", _REMOVE
    for where, handler in _handlers(container):
        for kind in ("httpGet", "tcpSocket"):
            if _mapping(_mapping(handler).get(kind)).get("host"):
                yield f"{place}.{where}.{kind}.host", _REMOVE


def _handlers(container: Manifest) -> Iterator[tuple[str, Any]]:
    yield from ((probe, container.get(probe)) for probe in _PROBES)
    lifecycle = _mapping(container.get("lifecycle"))
    yield from ((f"lifecycle.{hook}", lifecycle.get(hook)) for hook in _HOOKS)


def _context(node: Manifest, place: str) -> Iterator[Asked]:
    """Of a pod or a container: the fields have the same names in both."""
    context, place = node.get("securityContext", {}), f"{place}.securityContext"
    yield from _flags(context, "securityContext", place)
    if context.get("runAsNonRoot") is False:
        yield f"{place}.runAsNonRoot", _REMOVE
    if context.get("runAsUser") == 0:
        yield f"{place}.runAsUser", f"use another user than 0 (ours is {USER})"
    if _mapping(context.get("capabilities")).get("add"):
        yield from _capabilities(context["capabilities"]["add"], f"{place}.capabilities.add")
    if context.get("procMount", "Default") != "Default":
        yield f"{place}.procMount", _REMOVE
    for field in ("seccompProfile", "appArmorProfile"):
        if _mapping(context.get(field)).get("type") == "Unconfined":
            yield f"{place}.{field}", "use type RuntimeDefault"


def _capabilities(added: Any, place: str) -> Iterator[Asked]:
    if any(capability not in _CAPABILITIES for capability in _list(added) or [added]):
        yield place, f"add none but {', '.join(_CAPABILITIES)}"


def _mapping(value: Any) -> Mapping[str, Any]:
    """A wrong shape asks for nothing here: the API server refuses it when the pod is applied."""
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
