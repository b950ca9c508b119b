"""Which fault comes when: counts, a seed and a length give a list. Pure."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

COUNTS: Mapping[str, int] = {
    "scale-down": 10,
    "rollout": 3,
    "SIGKILL of a prefill engine": 5,
    "SIGKILL of a decode engine": 5,
    "SIGKILL of a router": 5,
    "SIGKILL of the operator": 5,
    "SIGKILL of the operator in the middle of a drain": 2,
    "node drain": 2,
    "restart of the API server": 1,
    "outage of Prometheus": 1,
}
"""The whole soak, 90 minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """`at_s`: not before so many seconds after the beginning; a fault from which the service recovers slowly delays
    those behind it."""

    kind: str
    at_s: float


def schedule(minutes: float, scale: float, seed: int) -> list[Planned]:
    """Every kind of fault at least once, in an order drawn by the seed, spread evenly over the time."""
    if minutes <= 0 or scale <= 0:
        raise ValueError(f"minutes and scale must be above 0, not {minutes} and {scale}")
    kinds = [kind for kind, count in COUNTS.items() for _ in range(max(1, round(count * scale)))]
    random.Random(seed).shuffle(kinds)
    slot_s = minutes * 60 / len(kinds)
    return [Planned(kind=kind, at_s=number * slot_s) for number, kind in enumerate(kinds)]
