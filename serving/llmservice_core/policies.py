"""All policies by name, with what can be set about each."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final

from llmservice_core.bulk import Bulk
from llmservice_core.lengths import ClassHistory, Oracle
from llmservice_core.policy_mlfq import Mlfq
from llmservice_core.policy_orders import EarliestDeadline, Sarathi, ShortestJob, ShortestPrompt
from llmservice_core.policy_plus import Plus
from llmservice_core.policy_rad import Rad
from llmservice_core.policy_slai import RunningMean, Slai
from llmservice_core.policy_vtc import Vtc
from llmservice_core.steps import Policy

STOCK: Final = "fcfs"
"""The engine's own order: no policy of ours, nothing in its step loop."""
DEFAULT: Final = "slai-plus"


def _plus(**settings: Any) -> Policy:
    return Plus(Bulk(**settings))


def _published(**settings: Any) -> Policy:
    return Slai("slai-published", mean=RunningMean, **settings)


def _job(*, predictor: str = "history", output_weight: float = 5.0) -> Policy:
    known = {"history": ClassHistory, "oracle": Oracle}
    if predictor not in known:
        raise ValueError(f"predictor={predictor!r}: there are {', '.join(known)}")
    return ShortestJob(known[predictor](), output_weight=output_weight)


_SLAI: Final = ("offset", "offset_when_full", "full_from", "shortest_first", "strict_first")
_MADE: Final[Mapping[str, tuple[Callable[..., Policy], Callable[..., Any], tuple[str, ...]]]] = {
    "slai-plus": (_plus, Bulk, tuple(f.name for f in fields(Bulk))),
    "slai": (Slai, Slai, _SLAI),
    "slai-published": (_published, Slai, _SLAI),
    "sarathi": (Sarathi, Sarathi, ()),
    "rad": (Rad, Rad, ("tile", "width", "cycle", "is_packed")),
    "vtc": (Vtc, Vtc, ()),
    "edf": (EarliestDeadline, EarliestDeadline, ("late_last",)),
    "mlfq": (Mlfq, Mlfq, ("quantum", "growth", "levels", "output_weight", "starve_s")),
    "spf": (ShortestPrompt, ShortestPrompt, ("guard_s",)),
    "sjf": (_job, _job, ("predictor", "output_weight")),
}
"""Name -> how to make it, whose signature gives defaults and types, which of its parameters can be set."""
NAMES: Final = (STOCK, *_MADE)


_TOKENS: Final[Mapping[str, tuple[str, ...]]] = {
    "slai-plus": ("narrowest", "widest", "tile", "long_tokens"),
    "rad": ("tile", "width"),
    "mlfq": ("quantum",),
}
"""Settings counted in tokens: a paced model, each of whose tokens stands for several, has them smaller."""


def make_policy(name: str, settings: Mapping[str, Any] | None = None, scale: int = 1) -> Policy | None:
    """A new policy for one engine; None for `STOCK`. `scale`: real tokens for each token of a paced small model.
    ValueError: a sentence that says what to change."""
    given = dict(settings or {})
    if name not in NAMES:
        raise ValueError(f"policy {name!r}: there are {', '.join(NAMES)}")
    if name == STOCK:
        _refuse(name, given, ())
        return None
    make, described, settable = _MADE[name]
    _refuse(name, given, settable)
    defaults = {p.name: p.default for p in inspect.signature(described).parameters.values()}
    checked = {key: _checked(name, key, value, defaults[key]) for key, value in given.items()}
    if scale > 1:
        checked |= {key: max(1, checked.get(key, defaults[key]) // scale) for key in _TOKENS.get(name, ())}
    return make(**checked)


def _refuse(name: str, given: Mapping[str, Any], settable: tuple[str, ...]) -> None:
    for key in given:
        if key not in settable:
            knows = f"it has {', '.join(settable)}" if settable else "it has none"
            raise ValueError(f"policy {name} has no setting {key!r}: {knows}")


def _checked(name: str, key: str, value: Any, default: Any) -> Any:
    """Of the default's kind; numbers positive and finite (a cycle may be infinite)."""
    if isinstance(default, bool | str):
        if type(value) is type(default):
            return value
        raise ValueError(f"policy {name}: {key} must be {'true or false' if isinstance(default, bool) else 'a name'}")
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value <= 0:
        raise ValueError(f"policy {name}: {key} must be a positive number, not {value!r}")
    if isinstance(default, int) and value != int(value):
        raise ValueError(f"policy {name}: {key} must be a whole number, not {value!r}")
    return int(value) if isinstance(default, int) else float(value)
