"""What a partial pod template says, with its shape checked at every place that `merge.py` looks into. Pure.

The API server checks the rest when the pod is applied; here a wrong shape would otherwise end in a Python error that
tells its owner nothing. A null says nothing, as in any manifest.
"""

from collections.abc import Mapping
from typing import Any

from llmservice_operator.errors import Misconfigured
from llmservice_operator.kinds import Manifest

_LISTS = {
    "containers": ("name", "{name, image, ...}"),
    "initContainers": ("name", "{name, image, ...}"),
    "volumes": ("name", "{name, ...}"),
    "env": ("name", "{name, value}"),
    "volumeMounts": ("mountPath", "{name, mountPath}"),
    "imagePullSecrets": ("name", "{name}"),
    "tolerations": (None, "{key, operator, effect}"),
}
"""Field -> the key by which its items are told apart, and what an item looks like."""


def read(template: Manifest, path: str) -> Manifest:
    """The template without nulls, or Misconfigured with the place under `path` and what to write there."""
    said: Manifest = _without_nulls(template)
    metadata = _object(said, "metadata", path, "an object with labels and annotations")
    for part in ("labels", "annotations"):
        _object(metadata, part, f"{path}.metadata", "an object of texts")
    spec = _object(said, "spec", path, "a partial PodSpec")
    _pod(spec, f"{path}.spec")
    return said


def _pod(spec: Manifest, path: str) -> None:
    _object(spec, "securityContext", path, "an object, for example {fsGroup: 1000}")
    for field in ("volumes", "tolerations", "imagePullSecrets"):
        _items(spec, field, path)
    for field in ("containers", "initContainers"):
        for container in _items(spec, field, path):
            _container(container, f"{path}.{field}[{container['name']}]")


def _container(container: Manifest, path: str) -> None:
    for field in ("env", "volumeMounts"):
        _items(container, field, path)
    _object(container, "securityContext", path, "an object, for example {runAsUser: 1000}")
    resources = _object(container, "resources", path, "an object with limits and requests")
    for part in ("limits", "requests"):
        _object(resources, part, f"{path}.resources", "an object of amounts, for example {memory: 64Gi}")


def _object(node: Manifest, field: str, path: str, what: str) -> Manifest:
    found = node.get(field, {})
    if not isinstance(found, dict):
        raise Misconfigured(f"{path}.{field} must be {what}")
    return found


def _items(node: Manifest, field: str, path: str) -> list[Manifest]:
    key, what = _LISTS[field]
    items = node.get(field, [])
    if not isinstance(items, list) or not all(_is_item(item, key) for item in items):
        raise Misconfigured(f"{path}.{field} must be a list of {what}")
    keys = [item[key] for item in items] if key else []
    twice = next((k for k in keys if keys.count(k) > 1), None)
    if twice is not None:
        raise Misconfigured(f"{path}.{field} has {twice} twice: keep one of them")
    return items


def _is_item(item: Any, key: str | None) -> bool:
    return isinstance(item, dict) and (key is None or (isinstance(item.get(key), str) and item[key] != ""))


def _without_nulls(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_nulls(value) for key, value in node.items() if value is not None}
    return [_without_nulls(item) for item in node] if isinstance(node, list) else node
