"""The LLMService resource, as people write it (design.md section 1), and its translation into the core's Goal.

Outside data enters here. It holds no state, reads no cluster and decides no sizes.
"""

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import Field

from llmservice_api import durations
from llmservice_api.engine import Engine, Model, Router
from llmservice_api.fields import (
    AutoOrDuration,
    ClassName,
    DrainDeadline,
    IdleAfter,
    Interval,
    Percentile,
    Shed,
    Target,
    TargetLoad,
    Url,
    Weight,
)
from llmservice_api.pools import Pools, PoolSpec
from llmservice_api.rules import Must, Node, Rule
from llmservice_api.status import Status
from llmservice_core import model as core
from llmservice_core.contract import GROUP, KIND, VERSION

LIST_MAP = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


class SloSpec(Node):
    """`percentile` per cent of the events lie within `target`."""

    target: Target = Field(description="Time within which the event must happen: 500ms, 30s, 2m.")
    percentile: Percentile = Field(description="Per cent of the events that must be within the target.")

    def to_slo(self) -> core.Slo:
        return core.Slo(target_s=durations.seconds(self.target), percentile=self.percentile)


class ClassSpec(Node):
    """Users with one TTFT and one TBT target."""

    name: ClassName
    default: bool = Field(False, description="Requests that name no class belong to this one.")
    ttft: SloSpec = Field(description="Time to first token, as the client sees it.")
    tbt: SloSpec = Field(description="Time between tokens, per token, as the engine emits them.")
    weight: Weight = Field(1.0, description="What one miss counts for when GPUs are short.")
    shed: Shed = Field(
        "Never",
        description="Late: a request that would miss its TTFT target anyway is refused at once (429, Retry-After);"
        " Never: it waits.",
    )

    def to_core(self) -> core.ServiceClass:
        return core.ServiceClass(
            name=self.name,
            ttft=self.ttft.to_slo(),
            tbt=self.tbt.to_slo(),
            weight=self.weight,
            is_default=self.default,
            sheds_late=self.shed == "Late",
        )


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


class Metrics(Node):
    prometheus_url: Url | None = Field(None, alias="prometheusURL", description="Unset: the operator's own setting.")


def _least_gpus(spec: "Spec") -> int:
    return sum(pool.least_gpus for pool in spec.pools.used().values())


def _pools_are(spec: "Spec", *wanted: core.Pool) -> bool:
    return set(spec.pools.used()) == set(wanted)


_CEL_LEAST_GPUS = " + ".join(
    f"(has(self.pools.{p}) ? (self.pools.{p}.minReplicas > 1 ? self.pools.{p}.minReplicas : 1)"
    f" * self.pools.{p}.gpusPerReplica : 0)"
    for p in ("prefill", "decode", "mixed")
)
_CLASS_RULES = (
    Rule(
        cel="self.all(c, self.exists_one(d, d.name == c.name))",
        holds=lambda classes: len({c.name for c in classes}) == len(classes),
        message="two classes have the same name: rename or remove one",
    ),
    Rule(
        cel="self.exists(c, c.default)",
        holds=lambda classes: any(c.default for c in classes),
        message="no class is the default: mark exactly one class with default: true",
    ),
    Rule(
        cel="self.filter(c, c.default).size() <= 1",
        holds=lambda classes: sum(c.default for c in classes) <= 1,
        message="more than one class is the default: mark exactly one class with default: true",
    ),
)


class Spec(Node):
    RULES: ClassVar = (
        Rule(
            cel="self.disaggregation in ['Always', 'Never']",
            holds=lambda spec: spec.disaggregation in ("Always", "Never"),
            message="disaggregation must be Always (prefill and decode pools) or Never (one mixed pool);"
            " Auto is not available yet",
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
            cel=f"!has(self.scaling) || !has(self.scaling.gpuBudget) || {_CEL_LEAST_GPUS} <= self.scaling.gpuBudget",
            holds=lambda spec: spec.scaling.gpu_budget is None or _least_gpus(spec) <= spec.scaling.gpu_budget,
            message="scaling.gpuBudget is smaller than the GPUs of the minimum (sum of minReplicas, at least 1, x"
            " gpusPerReplica over the pools): raise gpuBudget or lower minReplicas",
        ),
        Rule(
            cel="!has(self.pools.prefill) || !has(self.pools.decode) ||"
            " (self.pools.prefill.minReplicas == 0) == (self.pools.decode.minReplicas == 0)",
            holds=lambda spec: len({pool.min_replicas == 0 for pool in spec.pools.used().values()}) < 2,
            message="one pool may be empty and the other not: set minReplicas 0 in both pools (the service sleeps while"
            " no request comes), or in none",
        ),
    )
    model: Model
    classes: Annotated[
        list[ClassSpec], Field(min_length=1, max_length=16, json_schema_extra=LIST_MAP), Must(*_CLASS_RULES)
    ]
    disaggregation: Annotated[str, Field(max_length=16)] = Field(
        "Always", description="Always: prefill and decode pools. Never: one mixed pool."
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

    def pool(self, pool: core.Pool) -> PoolSpec:
        return self.spec.pools.used()[pool]

    @property
    def drain_deadline_s(self) -> float:
        return durations.seconds(self.spec.scaling.scale_down.drain_deadline)

    def to_goal(self) -> core.Goal:
        scaling = self.spec.scaling
        stabilization = scaling.scale_down.stabilization
        return core.Goal(
            classes=tuple(c.to_core() for c in self.spec.classes),
            pools=tuple(spec.to_core(pool) for pool, spec in self.spec.pools.used().items()),
            mode=scaling.mode,
            gpu_budget=scaling.gpu_budget,
            interval_s=durations.seconds(scaling.interval),
            target_load=scaling.target_load,
            idle_after_s=durations.seconds(scaling.idle_after),
            stabilization_s=None if stabilization == "auto" else durations.seconds(stabilization),
        )


def parse(body: Any) -> LLMService:
    """A manifest or an object from the API server -> the model; ValueError with sentences otherwise."""
    return LLMService.model_validate(body)
