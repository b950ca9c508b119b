"""What a request says about itself: class and targets out of `vllm_xargs`. Pure; never raises on what a client sent."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmservice_core import contract
from llmservice_core.steps import DEFAULT_CLASS

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """None: unknown. `age_s` is how long the request had waited before it came here."""

    class_name: str = DEFAULT_CLASS
    tenant: str = ""
    ttft_s: float | None = None
    tbt_s: float | None = None
    age_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    targets: Targets
    problem: str | None
    """The first thing that was wrong; the other values were taken all the same."""


def parse(extra_args: Mapping[str, Any] | None) -> Parsed:
    """Missing keys are no problem; keys with values that make no sense are, and count as missing."""
    given = extra_args or {}
    problems: list[str] = []
    name = _name(contract.XARG_CLASS, given.get(contract.XARG_CLASS), DEFAULT_CLASS, problems)
    tenant = _name(contract.XARG_TENANT, given.get(contract.XARG_TENANT), "", problems)
    ttft_s, tbt_s, age_s = (
        _seconds(key, given.get(key), problems, least=least)
        for key, least in ((contract.XARG_TTFT_S, 1e-6), (contract.XARG_TBT_S, 1e-6), (contract.XARG_AGE_S, 0.0))
    )
    targets = Targets(class_name=name, tenant=tenant, ttft_s=ttft_s, tbt_s=tbt_s, age_s=age_s)
    return Parsed(targets=targets, problem=problems[0] if problems else None)


def _name(key: str, value: Any, default: str, problems: list[str]) -> str:
    if value is None:
        return default
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    problems.append(f"{key} is not a name: {value!r:.80}")
    return default


def _seconds(key: str, value: Any, problems: list[str], *, least: float) -> float | None:
    if value is None:
        return None
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if math.isfinite(number) and least <= number <= 1e6:
        return float(number)
    problems.append(f"{key} is not a number of seconds: {value!r:.80}")
    return None
