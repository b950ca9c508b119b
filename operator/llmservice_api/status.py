"""The status of the resource: what the operator saw, decided and why. Written by the operator only.

Unknown numbers are absent, never 0.
"""

from typing import Annotated

from pydantic import Field

from llmservice_api.rules import Node

CONDITION_TYPES = ("Ready", "MetricsAvailable", "SLOMet", "BudgetLimited", "Asleep", "Progressing", "Degraded")
HISTORY_LENGTH = 20
MEMORY_LENGTH = 16384

_BY_TYPE = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
_BY_NAME = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
_ATOMIC = {"x-kubernetes-list-type": "atomic"}
Word = Annotated[str, Field(max_length=128)]
Sentence = Annotated[str, Field(max_length=2048)]
Time = Annotated[str, Field(max_length=32)]
Numbers = Annotated[dict[str, float], Field(max_length=128)]


class Condition(Node):
    type: Word
    status: Word = Field(description="True, False or Unknown.")
    reason: Word
    message: Sentence = ""
    last_transition_time: Time
    observed_generation: int = 0


class ObservedSlo(Node):
    target: Word
    percentile: float
    attainment: float | None = Field(None, description="Share of events within target, in per cent.")
    events: float | None = Field(None, description="Events counted in the window.")


class ClassStatus(Node):
    name: Word
    requests_per_second: float | None = None
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    ttft: ObservedSlo
    tbt: ObservedSlo


class PoolStatus(Node):
    desired: int | None = Field(None, description="The size that was decided; absent while unknown.")
    planned: int | None = Field(None, description="What the last plan wants: applied in mode Auto, shown in Recommend.")
    ready: int
    starting: int
    draining: int
    unschedulable: int
    reason: Word
    message: Sentence = ""


class PoolStatuses(Node):
    prefill: PoolStatus | None = None
    decode: PoolStatus | None = None
    mixed: PoolStatus | None = None


class Sizes(Node):
    prefill: int | None = None
    decode: int | None = None
    mixed: int | None = None


class StepSizes(Node):
    """Sizes as a step left them; fractions are work in replicas."""

    name: Word
    prefill: float | None = None
    decode: float | None = None
    mixed: float | None = None
    why: Sentence


class PlanStatus(Node):
    """The last decision with the numbers behind it, as of `time`."""

    time: Time
    reason: Word
    message: Sentence
    inputs: Numbers = Field(default_factory=dict)
    capacity: Numbers = Field(default_factory=dict)
    steps: Annotated[list[StepSizes], Field(max_length=32, json_schema_extra=_ATOMIC)] = Field(default_factory=list)


class Change(Node):
    """One change of sizes."""

    time: Time
    from_: Sizes = Field(alias="from")
    to: Sizes
    reason: Word
    message: Sentence


class Summary(Node):
    """Strings for the columns of kubectl."""

    prefill: Word
    decode: Word
    gpus: Word
    ttft: Word | None = None
    tbt: Word | None = None
    load: Word | None = None
    rate: Word | None = None
    reason: Word


class Status(Node):
    observed_generation: int | None = None
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra=_BY_TYPE)] = Field(
        default_factory=list
    )
    endpoint: Annotated[str, Field(max_length=512)] | None = None
    revision: Word | None = None
    gpus: int | None = Field(None, description="GPUs of all pods that exist, pending ones included.")
    load: float | None = Field(None, description="Work over capacity (RAD, Theorem 1); absent while unknown.")
    summary: Summary | None = None
    classes: Annotated[list[ClassStatus], Field(max_length=16, json_schema_extra=_BY_NAME)] = Field(
        default_factory=list
    )
    pools: PoolStatuses | None = None
    plan: PlanStatus | None = None
    history: Annotated[list[Change], Field(max_length=HISTORY_LENGTH, json_schema_extra=_ATOMIC)] = Field(
        default_factory=list
    )
    memory: Annotated[str, Field(max_length=MEMORY_LENGTH)] | None = Field(
        None, description="What the planner knows from earlier, for a restart of the operator. Not for people."
    )

    def condition(self, kind: str) -> Condition | None:
        return next((c for c in self.conditions if c.type == kind), None)
