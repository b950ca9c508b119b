"""Durations as people write them in a manifest (`500ms`, `30s`, `1m30s`) and back. Nothing else."""

import re
from typing import Final

PATTERN: Final = r"^([0-9]+([.][0-9]+)?(ms|s|m|h))+$"
_PART: Final = re.compile(r"([0-9]+(?:[.][0-9]+)?)(ms|s|m|h)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def is_duration(text: str) -> bool:
    return re.match(PATTERN, text) is not None


def seconds(text: str) -> float:
    """`1m30s` -> 90.0; ValueError for anything that is not a duration."""
    if not is_duration(text):
        raise ValueError(f"{text!r} is not a duration: write a number with its unit, for example 500ms, 30s or 2m")
    # Milliseconds are summed as whole numbers, so that 500ms is exactly 0.5.
    return sum(float(number) * _SECONDS[unit] * 1000 for number, unit in _PART.findall(text)) / 1000


def written(duration_s: float) -> str:
    """The shortest usual form: 0.5 -> `500ms`, 30.0 -> `30s`."""
    return f"{duration_s * 1000:g}ms" if duration_s < 1 else f"{duration_s:g}s"
