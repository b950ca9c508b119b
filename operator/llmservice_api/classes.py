"""The part of the resource that says who is served, and what each class is promised."""

from pydantic import Field

from llmservice_api import durations
from llmservice_api.fields import ClassName, Percentile, Shed, Target, Weight
from llmservice_api.rules import Node, Rule
from llmservice_core import model as core


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


CLASS_RULES = (
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
