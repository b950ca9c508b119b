"""Does what lives differ from what we want? Only fields that we write are compared. Pure.

Within such a field others may add keys and items, but for the fields that are one statement: those are compared whole,
and server-side apply replaces them whole (their schemas call them atomic), so that a stranger's part does go.

The API server adds defaults and spells some values its own way (`1000m` becomes `1`), so after an apply we remember
what it made of our fields and call that settled.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llmservice_operator.kinds import Manifest

_KEYS = ("name", "mountPath", "containerPort")
_WHOLE = ("selector", "matchLabels", "nodeSelector", "podSelector", "subjects", "rules")
"""A label more and a Service has no endpoints; a subject more and a stranger has the router's rights."""


def part_of(live: Any, wanted: Any) -> Any:
    """What `live` says at the places that `wanted` speaks of; absent places are left out."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        found = {k: live.get(k) if k in _WHOLE else part_of(live.get(k), v) for k, v in wanted.items()}
        return {key: value for key, value in found.items() if not _empty(value)}
    if _is_keyed(wanted) and _is_keyed(live):
        return _keyed_part(live, wanted)
    return live


def plain(wanted: Any) -> Any:
    """`wanted` as `part_of` would show it if the API server kept every value: empty values are absent."""
    return part_of(wanted, wanted)


def differs(live: Manifest, wanted: Manifest) -> bool:
    return bool(part_of(live, wanted) != plain(wanted))


def _keyed_part(live: Sequence[Any], wanted: Sequence[Any]) -> list[Any]:
    """Items of ours in our order; others' items (a sidecar that somebody injected) are none of our business."""
    key = next(k for k in _KEYS if k in wanted[0])
    there = {item.get(key): item for item in live}
    return [part_of(there[item.get(key)], item) for item in wanted if item.get(key) in there]


def _is_keyed(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, Mapping) for item in value)
        and any(all(key in item for item in value) for key in _KEYS)
    )


def _empty(value: Any) -> bool:
    return value is None or value == "" or value is False or value == [] or value == {}
