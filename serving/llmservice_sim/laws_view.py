"""What a law is given and what it answers: one small interface for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from llmservice_core.model import Observation, Plan, Pool


def _unknown(pool: Pool) -> float | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """`in_flight`: requests in the engines of a pool, queued ones included, at the last scrape of each; None: none
    was scraped yet. The others are asked for, because few laws need them; None: nothing is known."""

    now_s: float
    observation: Observation
    in_flight: Mapping[Pool, float | None] = field(default_factory=dict)
    latency: Callable[[Pool], float | None] = _unknown
    """P90 over the last minute as a share of its target, of the class that is worst off: TTFT of a pool that computes
    prompts, mean gap of a finished answer (TPOT) of one that decodes, the worse of both of a mixed one."""
    kv_usage: Callable[[Pool], float | None] = _unknown
    """Sum over the engines of a pool of the used share of their KV memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """`plan`: the record of a law that makes one; else `why` in a sentence."""

    sizes: Mapping[Pool, int]
    why: str = ""
    plan: Plan | None = None


class Law(Protocol):
    @property
    def name(self) -> str: ...

    def decide(self, view: View) -> Sizing:
        """The sizes to have from now on."""
        ...
