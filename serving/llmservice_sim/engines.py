"""Which engine a replica runs: the one place that knows how an exact engine is made for a policy."""

from __future__ import annotations

from llmservice_core.policies import make_policy
from llmservice_core.steps import StepTime
from llmservice_sim.engine import Engine, EngineLimits


def engine_of(
    policy: str, limits: EngineLimits, step_time: StepTime, tile_tokens: int = 128, token_budget: int | None = None
) -> Engine:
    """As in production, which believes the step model that it is paced by or has learned. ValueError: no such name."""
    return Engine(limits, make_policy(policy), step_time, token_budget=token_budget or "auto", tile_tokens=tile_tokens)
