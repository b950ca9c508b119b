"""Which engine a replica runs: the one place that knows how an exact engine is made for a policy and a pool."""

from __future__ import annotations

from llmservice_core.bulk import Bulk
from llmservice_core.model import Pool
from llmservice_core.ordering import POLICIES
from llmservice_sim.engine import Engine, EngineLimits
from llmservice_sim.planned import PlannedEngine
from llmservice_sim.run import StepTime

STOCK = "fcfs"
PLUS = Bulk().name
POLICY_NAMES = (STOCK, *POLICIES, PLUS)
"""What LLMSERVICE_POLICY may name in an engine pod."""


def engine_of(policy: str, pool: Pool, limits: EngineLimits, step_time: StepTime) -> Engine:
    """As in production: slai-plus plans mixed pools and orders the others as SLAI does; fcfs is vLLM's own order."""
    if policy not in POLICY_NAMES:
        raise ValueError(f"there is no policy {policy!r}: choose one of {', '.join(POLICY_NAMES)}")
    if policy == PLUS and pool is Pool.MIXED:
        return PlannedEngine(limits, Bulk(), step_time)
    return Engine(limits, POLICIES.get("slai" if policy == PLUS else policy))
