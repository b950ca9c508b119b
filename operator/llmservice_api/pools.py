"""The pools of the resource: limits of their sizes, and what their pods need beyond our own template."""

from typing import ClassVar

from pydantic import Field

from llmservice_api.fields import Gpus, LeastReplicas, Replicas
from llmservice_api.pod_template import PartialPodTemplate
from llmservice_api.rules import Node, Rule
from llmservice_core import model as core


class PoolSpec(Node):
    """Limits of one pool and what its pods need beyond our own template."""

    RULES: ClassVar = (
        Rule(
            cel="self.maxReplicas >= self.minReplicas",
            holds=lambda pool: pool.max_replicas >= pool.min_replicas,
            message="maxReplicas must be at least minReplicas: raise maxReplicas or lower minReplicas",
        ),
    )
    min_replicas: LeastReplicas = Field(
        1, description="0, in all pools of the service: it sleeps without engines while no request comes (idleAfter)."
    )
    max_replicas: Replicas
    gpus_per_replica: Gpus = Field(1, description="GPUs of one engine (tensor parallel).")
    template: PartialPodTemplate | None = Field(
        None, description="Partial pod template, merged into ours: lists by name, probes and ports stay ours."
    )

    @property
    def least_gpus(self) -> int:
        """Of a service that is awake: each pool has a replica then."""
        return max(1, self.min_replicas) * self.gpus_per_replica

    def to_core(self, pool: core.Pool) -> core.PoolGoal:
        return core.PoolGoal(
            pool=pool,
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            gpus_per_replica=self.gpus_per_replica,
        )


class Pools(Node):
    """prefill and decode, or mixed."""

    prefill: PoolSpec | None = None
    decode: PoolSpec | None = None
    mixed: PoolSpec | None = None

    def used(self) -> dict[core.Pool, PoolSpec]:
        named = {
            core.Pool.PREFILL: self.prefill,
            core.Pool.DECODE: self.decode,
            core.Pool.MIXED: self.mixed,
        }
        return {pool: spec for pool, spec in named.items() if spec is not None}
