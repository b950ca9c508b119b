"""One rule, two checkers: the same sentence from the API server (CEL) and from Python (a manifest read from a file).

A rule is written once, with its CEL text, its Python twin and the sentence that says what to change. It never decides
anything about a running service.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`holds` must mean the same as `cel`: tests put every bad manifest before both."""

    cel: str
    holds: Callable[[Any], bool]
    message: str

    def as_validation(self) -> dict[str, str]:
        return {"rule": self.cel, "message": self.message}

    def check(self, value: Any) -> None:
        if not self.holds(value):
            raise ValueError(self.message)


def matches(pattern: str, message: str) -> Rule:
    """The text has this form; the pattern must mean the same in RE2 and in Python."""
    return Rule(
        cel=f"self.matches('{pattern}')",
        holds=lambda text: re.match(pattern, text) is not None,
        message=message,
    )


@dataclass(frozen=True)
class Must:
    """Annotation of a field: `Annotated[str, Must(RULE)]`. The first broken rule speaks."""

    rules: tuple[Rule, ...]

    def __init__(self, *rules: Rule) -> None:
        object.__setattr__(self, "rules", rules)

    def _check(self, value: Any) -> Any:
        for rule in self.rules:
            rule.check(value)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _with_validations(handler(core), self.rules)


class Node(BaseModel):
    """An object of the resource: camelCase outside, rules over the whole object in `RULES`.

    Unknown fields are dropped, as the API server drops them; only strict clients (kubectl) refuse them.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        for rule in self.RULES:
            rule.check(self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        schema.update(_with_validations(schema, cls.RULES))
        return schema


def _with_validations(schema: JsonSchemaValue, rules: tuple[Rule, ...]) -> JsonSchemaValue:
    if not rules:
        return schema
    return schema | {VALIDATIONS: schema.get(VALIDATIONS, []) + [rule.as_validation() for rule in rules]}
