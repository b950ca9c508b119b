"""Which engine a replica runs: the one place that knows how an exact engine is made for a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmservice_core.policies import make_policy
from llmservice_core.steps import StepTime
from llmservice_sim.engine import Engine, EngineLimits


def engine_of(
    policy: str,
    limits: EngineLimits,
    step_time: StepTime,
    tile_tokens: int = 128,
    token_budget: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Engine:
    """As in production, which believes the step model that it is paced by or has learned. `settings`: the policy's own.
    ValueError: no such name."""
    made = make_policy(policy, settings)
    return Engine(limits, made, step_time, token_budget=token_budget or "auto", tile_tokens=tile_tokens)
