"""The LLMService resource, as people write it (design.md section 1), and its translation into the core's Goal.

Outside data enters here. It holds no state, reads no cluster and decides no sizes.
"""

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import Field

from llmservice_api import durations
from llmservice_api.classes import CLASS_RULES, ClassSpec
from llmservice_api.engine import Engine, Model, Router
from llmservice_api.fields import (
    AutoOrDuration,
    DecodeTakesPrefill,
    DrainDeadline,
    IdleAfter,
    Interval,
    TargetLoad,
    Url,
)
from llmservice_api.pools import Pools, PoolSpec
from llmservice_api.rules import Must, Node, Rule
from llmservice_api.status import Status
from llmservice_core import model as core
from llmservice_core.contract import GROUP, KIND, VERSION
from llmservice_core.disaggregation import Choice, choose

LIST_MAP = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


class ScaleDown(Node):
    stabilization: AutoOrDuration = Field(
        "auto", description="How long a smaller size must have been right: auto is the observed start-up time."
    )
    drain_deadline: DrainDeadline = Field(
        "15m",
        description="How long an engine that leaves may take to finish its requests; pods get it as their grace period,"
        " too, so a change starts a new revision. 0s cuts them off.",
    )


class Scaling(Node):
    """How the sizes follow the load."""

    mode: core.Mode = Field(
        core.Mode.AUTO, description="Auto; Recommend: plan and show, do not apply; Off: no planning."
    )
    gpu_budget: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None,
        description="GPUs of all pools together, pending pods counted. A new revision starts beside the old one as far"
        " as it goes; without room for a second pair a lone one pauses while it is replaced.",
    )
    interval: Interval = Field("15s", description="Time between two decisions.")
    idle_after: IdleAfter = Field(
        "5m", description="Pools with minReplicas 0 sleep when no request came for so long. The next one wakes them."
    )
    target_load: TargetLoad = Field(0.98, description="RAD's stability guard, not the margin.")
    scale_down: ScaleDown = Field(default_factory=ScaleDown)
    decode_takes_prefill: DecodeTakesPrefill = Field(
        "Auto",
        description="Auto: decode engines compute short prompts in the time that the tightest TBT leaves them, where"
        " that is sooner than in the prefill pool, and prefill gets fewer replicas. Never: only prefill engines do."
        " Without effect for engine.scheduler.policy fcfs or a fixed tokenBudget, which do not keep TBT by themselves.",
    )


class Metrics(Node):
    prometheus_url: Url | None = Field(None, alias="prometheusURL", description="Unset: the operator's own setting.")


def _least_gpus(spec: "Spec") -> int:
    """Of the pools that run at once: the pair, or the mixed one."""
    least = {pool: found.least_gpus for pool, found in spec.pools.given().items()}
    mixed = least.pop(core.Pool.MIXED, 0)
    return max(mixed, sum(least.values()))


def _pools_are(spec: "Spec", *wanted: core.Pool) -> bool:
    return set(spec.pools.given()) == set(wanted)


def _cel_least_gpus(*pools: str) -> str:
    return " + ".join(
        f"(has(self.pools.{p}) ? (self.pools.{p}.minReplicas > 1 ? self.pools.{p}.minReplicas : 1)"
        f" * self.pools.{p}.gpusPerReplica : 0)"
        for p in pools
    )


_HAS_BUDGET = "has(self.scaling) && has(self.scaling.gpuBudget)"


class Spec(Node):
    RULES: ClassVar = (
        Rule(
            cel="self.disaggregation in ['Always', 'Never', 'Auto']",
            holds=lambda spec: spec.disaggregation in ("Always", "Never", "Auto"),
            message="disaggregation must be Always (prefill and decode pools), Never (one mixed pool) or Auto (which of"
            " them is decided once)",
        ),
        Rule(
            cel="self.disaggregation != 'Always' ||"
            " (has(self.pools.prefill) && has(self.pools.decode) && !has(self.pools.mixed))",
            holds=lambda spec: spec.disaggregation != "Always" or _pools_are(spec, core.Pool.PREFILL, core.Pool.DECODE),
            message="disaggregation Always needs pools.prefill and pools.decode and no pools.mixed",
        ),
        Rule(
            cel="self.disaggregation != 'Never' ||"
            " (has(self.pools.mixed) && !has(self.pools.prefill) && !has(self.pools.decode))",
            holds=lambda spec: spec.disaggregation != "Never" or _pools_are(spec, core.Pool.MIXED),
            message="disaggregation Never needs pools.mixed and neither pools.prefill nor pools.decode",
        ),
        Rule(
            cel="self.disaggregation != 'Auto' ||"
            " (has(self.pools.prefill) && has(self.pools.decode) && has(self.pools.mixed))",
            holds=lambda spec: (
                spec.disaggregation != "Auto" or _pools_are(spec, core.Pool.PREFILL, core.Pool.DECODE, core.Pool.MIXED)
            ),
            message="disaggregation Auto needs the limits of both forms: pools.prefill, pools.decode and pools.mixed",
        ),
        Rule(
            cel=f"!({_HAS_BUDGET}) || (({_cel_least_gpus('prefill', 'decode')}) <= self.scaling.gpuBudget &&"
            f" ({_cel_least_gpus('mixed')}) <= self.scaling.gpuBudget)",
            holds=lambda spec: spec.scaling.gpu_budget is None or _least_gpus(spec) <= spec.scaling.gpu_budget,
            message="scaling.gpuBudget is smaller than the GPUs of the minimum (sum of minReplicas, at least 1, x"
            " gpusPerReplica over the pools): raise gpuBudget or lower minReplicas",
        ),
        Rule(
            cel="!has(self.pools.prefill) || !has(self.pools.decode) ||"
            " (self.pools.prefill.minReplicas == 0) == (self.pools.decode.minReplicas == 0)",
            holds=lambda spec: (
                not spec.pools.prefill
                or not spec.pools.decode
                or (spec.pools.prefill.min_replicas == 0) == (spec.pools.decode.min_replicas == 0)
            ),
            message="one pool may be empty and the other not: set minReplicas 0 in both pools (the service sleeps while"
            " no request comes), or in none",
        ),
    )
    model: Model
    classes: Annotated[
        list[ClassSpec], Field(min_length=1, max_length=16, json_schema_extra=LIST_MAP), Must(*CLASS_RULES)
    ]
    disaggregation: Annotated[str, Field(max_length=16)] = Field(
        "Always",
        description="Always: prefill and decode pools. Never: one mixed pool. Auto: for a new service one mixed pool"
        " where a step of prompts and decodes fits into the strictest TBT (engine.gpu), else pools; kept from then on.",
    )
    pools: Pools
    scaling: Scaling = Field(default_factory=Scaling)
    engine: Engine = Field(default_factory=Engine)
    router: Router = Field(default_factory=Router)
    metrics: Metrics = Field(default_factory=Metrics)


class Metadata(Node):
    """The part of ObjectMeta that we read."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None


_NAME_RULE = Rule(
    cel="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 40",
    holds=lambda service: re.match("^[a-z](?=.{0,39}$)([-a-z0-9]*[a-z0-9])?$", service.metadata.name) is not None,
    message="the names of Services and pods are built from this name: use at most 40 small letters, digits"
    " and dashes, and begin with a letter",
)


class LLMService(Node):
    """One model served to the targets of its classes with the fewest GPUs."""

    RULES: ClassVar = (_NAME_RULE,)
    api_version: str = f"{GROUP}/{VERSION}"
    kind: str = KIND
    metadata: Metadata
    spec: Spec
    status: Status | None = None

    @property
    def key(self) -> str:
        """`<namespace>/<name>`: label `llmservice` of every series, and our name for it everywhere."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def served_name(self) -> str:
        return self.spec.model.served_name or self.metadata.name

    @property
    def api_keys_secret(self) -> str | None:
        """None: the service is open to whoever reaches its routers."""
        access = self.spec.router.access
        return access.api_keys_secret if access else None

    @property
    def disaggregation(self) -> Choice:
        """Always, Never, or what Auto came to when the service was new."""
        said = self.spec.disaggregation
        if said != "Auto":
            return Choice(is_split=said == "Always", why=f"spec.disaggregation is {said}")
        known = self.status.disaggregation if self.status else None
        if known is not None:
            return Choice(is_split=known.mode == "Always", why=known.reason)
        strictest_s = min(durations.seconds(c.tbt.target) for c in self.spec.classes)
        return choose(strictest_s, self.spec.engine.gpu)

    @property
    def pools(self) -> dict[core.Pool, PoolSpec]:
        """Those that run: a service with Auto has limits for both forms."""
        is_split, given = self.disaggregation.is_split, self.spec.pools.given()
        return {pool: found for pool, found in given.items() if (pool is not core.Pool.MIXED) is is_split}

    def pool(self, pool: core.Pool) -> PoolSpec:
        return self.pools[pool]

    @property
    def drain_deadline_s(self) -> float:
        return durations.seconds(self.spec.scaling.scale_down.drain_deadline)

    @property
    def _keeps_tbt(self) -> bool:
        """Engines make mixed steps no longer than the tightest TBT of the decodes in them allows."""
        scheduler = self.spec.engine.scheduler
        return scheduler.policy != "fcfs" and scheduler.token_budget == "auto"

    def to_goal(self) -> core.Goal:
        scaling = self.spec.scaling
        stabilization = scaling.scale_down.stabilization
        return core.Goal(
            classes=tuple(c.to_core() for c in self.spec.classes),
            pools=tuple(spec.to_core(pool) for pool, spec in self.pools.items()),
            mode=scaling.mode,
            gpu_budget=scaling.gpu_budget,
            interval_s=durations.seconds(scaling.interval),
            target_load=scaling.target_load,
            idle_after_s=durations.seconds(scaling.idle_after),
            stabilization_s=None if stabilization == "auto" else durations.seconds(stabilization),
            decode_takes_prefill=scaling.decode_takes_prefill == "Auto" and self._keeps_tbt,
        )


def parse(body: Any) -> LLMService:
    """A manifest or an object from the API server -> the model; ValueError with sentences otherwise."""
    return LLMService.model_validate(body)
