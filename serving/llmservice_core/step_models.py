"""The measured step-time models by name. Package data, printed by bench/data/make_step_models.py, never edited."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from llmservice_core.latency import Attention, StepModel

_FILE = "step_models.json"


@cache
def _raw() -> dict[str, dict[str, Any]]:
    text = files("llmservice_core").joinpath("data", _FILE).read_text(encoding="utf-8")
    models: dict[str, dict[str, Any]] = json.loads(text)
    return models


def names() -> tuple[str, ...]:
    return tuple(_raw())


@cache
def step_model(name: str) -> StepModel:
    """The model of that name. KeyError with the names that exist otherwise."""
    if name not in _raw():
        raise KeyError(f"no step model {name!r}; there are {', '.join(names())}")
    raw = dict(_raw()[name])
    attention: dict[str, Any] = {k: Attention(**v) if v else None for k, v in raw.pop("attention").items()}
    rows = raw.pop("rows")
    tokens, linear, elementwise = (tuple(column) for column in zip(*rows, strict=True))
    raw.pop("source")
    return StepModel(name=name, tokens=tokens, linear_us=linear, elementwise_us=elementwise, **attention, **raw)
