"""One record with everything that a pass over one service found out: the input of conditions, status and events."""

from collections.abc import Mapping
from dataclasses import dataclass

from llmservice_api.resource import LLMService
from llmservice_core.model import Observation, Plan, Pool, PoolSeen


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """`observation` and `plan` are None before the first decision and in mode Off."""

    service: LLMService
    now_s: float
    pools: tuple[PoolSeen, ...]
    sizes: Mapping[Pool, int]
    router_ready: int
    revision: str | None
    rolling_out: bool
    observation: Observation | None
    plan: Plan | None
    rollout_limit: str | None = None
    """What keeps the new revision from starting in full beside the old one: `budget`, or GPUs of the cluster."""
    is_paused: bool = False
    """Neither revision serves until the new one does."""
    routers_bare: int = 0
    """Router pods that have a node and get no volumes or network there."""
    routers_unready: int = 0
    """Router pods that run and are not Ready, for longer than a start takes."""
    trouble: tuple[str, str, bool] | None = None
    """Reason and sentence of the pod that does not become Ready; whether a rollout waits for it."""
    problem: tuple[str, str] | None = None
    """Reason and sentence of what kept this pass from its end."""

    def seen(self, pool: Pool) -> PoolSeen:
        none = PoolSeen(pool=pool, desired=0, ready=0, starting=0, draining=0, unschedulable=0)
        return next((p for p in self.pools if p.pool is pool), none)

    @property
    def is_asleep(self) -> bool:
        """Every pool was decided to be empty; pods may still be on their way out."""
        return self.service.to_goal().may_sleep and bool(self.sizes) and not any(self.sizes.values())

    @property
    def gpus(self) -> int:
        """Of all pods that exist or are asked for; those that wait for a node count, too."""
        return sum(
            _pods(self.seen(pool), self.sizes.get(pool, 0)) * spec.gpus_per_replica
            for pool, spec in self.service.pools.items()
        )


def _pods(seen: PoolSeen, size: int) -> int:
    return max(size, seen.ready + seen.starting + seen.unschedulable) + seen.draining
