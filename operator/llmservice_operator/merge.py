"""Merges the user's partial pod template into ours (design.md section 1). Pure; there is no strategic merge in Python.

Containers, volumes and env by name, volumeMounts by mountPath; tolerations and imagePullSecrets appended; resources
amount by amount, securityContext field by field; everything else replaced. What makes a pod one of ours always wins:
labels, ports, probes, the hook and the time for leaving, the identity in env, the number of GPUs. What a template may
ask for at all says `pod_security.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llmservice_operator import pod_security, template_shape
from llmservice_operator.kinds import Manifest
from llmservice_operator.pod_security import PodTemplate

_BY_NAME = ("containers", "initContainers", "volumes", "env")
_APPENDED = ("tolerations", "imagePullSecrets")
_OURS_IN_CONTAINER = ("ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle")
_OURS_IN_SPEC = ("terminationGracePeriodSeconds",)
_BY_FIELD = ("resources", "limits", "requests", "securityContext")


def merge_template(
    ours: Manifest, theirs: Manifest | None, identity: Sequence[Manifest], path: str, allowed: PodTemplate
) -> Manifest:
    """`identity`: env of our container (the first) that nobody may change. `path`: where `theirs` stands."""
    if not theirs:
        return ours
    theirs = template_shape.read(theirs, path)
    if allowed is PodTemplate.FULL:
        return _merged(ours, theirs, identity)
    pod_security.refuse(theirs, path)
    merged = _merged(ours, theirs, identity)
    return {**merged, "spec": pod_security.locked(merged["spec"])}


def _merged(ours: Manifest, theirs: Manifest, identity: Sequence[Manifest]) -> Manifest:
    their_spec = _without(theirs.get("spec", {}), _OURS_IN_SPEC)
    container = ours["spec"]["containers"][0]
    spec = _merge_object(ours["spec"], _protected(their_spec, container))
    merged = spec["containers"][0]
    merged["env"] = _by_key(merged.get("env", []), identity, "name")
    merged["resources"] = _merge_object(merged.get("resources", {}), container.get("resources", {}))
    return {"metadata": _merge_metadata(ours["metadata"], theirs.get("metadata", {})), "spec": spec}


def _merge_metadata(ours: Manifest, theirs: Manifest) -> Manifest:
    return {key: {**theirs.get(key, {}), **ours.get(key, {})} for key in ("labels", "annotations")}


def _protected(spec: Manifest, container: Manifest) -> Manifest:
    """Their spec without what they may not say about our container."""
    containers = [
        _without(c, _OURS_IN_CONTAINER) if c["name"] == container["name"] else c for c in spec.get("containers", [])
    ]
    return {**spec, "containers": containers}


def _merge_object(ours: Manifest, theirs: Manifest) -> Manifest:
    return {**ours, **{key: _merge_field(key, ours.get(key), value) for key, value in theirs.items()}}


def _merge_field(key: str, ours: Any, theirs: Any) -> Any:
    if ours is None:
        return theirs
    if key in _BY_NAME:
        return _by_key(ours, theirs, "name")
    if key == "volumeMounts":
        return _by_key(ours, theirs, "mountPath")
    if key in _APPENDED:
        return [*ours, *(item for item in theirs if item not in ours)]
    if key in _BY_FIELD:
        return _merge_object(ours, theirs)
    return theirs


def _by_key(ours: Sequence[Manifest], theirs: Sequence[Manifest], key: str) -> list[Manifest]:
    """Ours in our order, each with what they say about it, then the rest of theirs.

    An env variable or a volume is one statement and is replaced; a container is merged field by field.
    """
    said = {item[key]: item for item in theirs}
    known = {item[key] for item in ours}
    merged = [_merge_item(item, said[item[key]]) if item[key] in said else item for item in ours]
    return merged + [item for item in theirs if item[key] not in known]


def _merge_item(ours: Manifest, theirs: Manifest) -> Manifest:
    return _merge_object(ours, theirs) if "image" in ours else theirs


def _without(node: Mapping[str, Any], keys: Sequence[str]) -> Manifest:
    return {key: value for key, value in node.items() if key not in keys}
