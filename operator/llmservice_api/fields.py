"""The small types of the resource: names, durations, shares, each with the rule that guards it. No objects."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, WithJsonSchema

from llmservice_api import durations
from llmservice_api.rules import Must, Rule, matches
from llmservice_core.contract import ENV_PACE

PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
MAX_REPLICAS: Final = 1000


def _between(text: str, low: str, high: str) -> bool:
    return durations.is_duration(text) and (
        durations.seconds(low) <= durations.seconds(text) <= durations.seconds(high)
    )


def _cel_between(low: str, high: str) -> str:
    return (
        f"self.matches('{durations.PATTERN}') && duration(self) >= duration('{low}')"
        f" && duration(self) <= duration('{high}')"
    )


def duration_rule(low: str, high: str) -> Rule:
    return Rule(
        cel=_cel_between(low, high),
        holds=lambda text: _between(text, low, high),
        message=f"write a duration as a number with its unit, for example 500ms, 30s or 2m, from {low} to {high}",
    )


def auto_or_duration_rule(low: str, high: str) -> Rule:
    return Rule(
        cel=f"self == 'auto' || ({_cel_between(low, high)})",
        holds=lambda text: text == "auto" or _between(text, low, high),
        message=f"write auto, or a duration with its unit from {low} to {high}, for example 5m",
    )


Target = Annotated[str, Field(max_length=16), Must(duration_rule("1ms", "1h"))]
Interval = Annotated[str, Field(max_length=16), Must(duration_rule("5s", "10m"))]
IdleAfter = Annotated[str, Field(max_length=16), Must(duration_rule("10s", "168h"))]
DrainDeadline = Annotated[str, Field(max_length=16), Must(duration_rule("0s", "24h"))]
AutoOrDuration = Annotated[str, Field(max_length=16), Must(auto_or_duration_rule("0s", "24h"))]

Percentile = Annotated[
    float,
    Must(
        Rule(
            cel="self > 0.0 && self < 100.0",
            holds=lambda value: 0 < value < 100,
            message="a percentile lies above 0 and below 100: 95 means that 95 % must be within the target",
        )
    ),
]
Weight = Annotated[
    float,
    Must(
        Rule(
            cel="self > 0.0 && self <= 1000000.0",
            holds=lambda value: 0 < value <= 1_000_000,
            message="a weight lies above 0 and is at most 1000000",
        )
    ),
]
TargetLoad = Annotated[
    float,
    Must(
        Rule(
            cel="self > 0.0 && self < 1.0",
            holds=lambda value: 0 < value < 1,
            message="targetLoad lies above 0 and below 1: at 1 the queue grows without end",
        )
    ),
]
ClassName = Annotated[
    str,
    Field(min_length=1, max_length=32),
    Must(
        matches(
            "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            "a class name is made of small letters, digits and dashes, for example interactive",
        )
    ),
]
ObjectName = Annotated[str, Field(min_length=1, max_length=253)]
SecretName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Must(
        matches(
            "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$",
            "name a Secret of this namespace: small letters, digits, dashes and dots, for example chat-keys",
        )
    ),
]
Image = Annotated[str, Field(min_length=1, max_length=512)]
Replicas = Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
LeastReplicas = Annotated[int, Field(ge=0, le=MAX_REPLICAS)]
Gpus = Annotated[int, Field(ge=1, le=64)]

Url = Annotated[
    str,
    Field(max_length=512),
    Must(matches("^https?://[^/]+", "write the whole URL, for example http://prometheus.monitoring:9090")),
]

AutoOrTokens = Annotated[
    int | str,
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 8}),
    Must(
        Rule(
            cel="type(self) == int ? self >= 16 : self == 'auto'",
            holds=lambda value: value >= 16 if isinstance(value, int) else value == "auto",
            message="write auto, or a number of tokens of at least 16",
        )
    ),
]

Policy = Literal["slai-plus", "slai", "slai-published", "sarathi", "rad", "vtc", "edf", "mlfq", "spf", "sjf", "fcfs"]
"""The names of llmservice_core.policies, as a test checks."""
Shed = Literal["Never", "Late"]

OpenObject = Annotated[dict[str, Any], WithJsonSchema({"type": "object", PRESERVE: True})]

_OWNED_ARGS: Final = (
    "--host",
    "--port",
    "--model",
    "--served-model-name",
    "--revision",
    "--max-model-len",
    "--tensor-parallel-size",
    "-tp",
    "--scheduler-cls",
    "--max-num-batched-tokens",
    "--kv-transfer-config",
    "--shutdown-timeout",
    "--enable-prompt-tokens-details",
    "--no-enable-prompt-tokens-details",
    "--config",
)


def _flag(argument: str) -> str:
    """As vLLM reads it: `--kv_transfer_config.kv_role=x` is about --kv-transfer-config."""
    return argument.split("=")[0].split(".")[0].replace("_", "-")


def _is_owned(argument: str) -> bool:
    """vLLM takes abbreviations, too; no other flag of its begins one of ours."""
    flag = _flag(argument)
    return len(flag) > 1 and flag != "--" and any(owned.startswith(flag) for owned in _OWNED_ARGS)


_CEL_FLAG: Final = "self.split('=')[0].split('.')[0].replace('_', '-')"
EngineArg = Annotated[
    str,
    Field(max_length=1024),
    Must(
        Rule(
            cel=f"!self.startsWith('-') || [{_CEL_FLAG}].all(flag, flag.size() < 2 || flag == '--' ||"
            f" {list(_OWNED_ARGS)}.all(owned, !owned.startsWith(flag)))",
            holds=lambda argument: not _is_owned(argument),
            message=f"remove this argument: {', '.join(_OWNED_ARGS)} and their abbreviations are set from the fields of"
            " the resource (model, pools, engine.scheduler), or by the operator alone",
        )
    ),
]

EnvName = Annotated[
    str,
    Field(min_length=1, max_length=128),
    Must(
        Rule(
            cel=f"!(self.startsWith('LLMSERVICE_') || self.startsWith('VLLM_NIXL_')) || self == '{ENV_PACE}'",
            holds=lambda name: not name.startswith(("LLMSERVICE_", "VLLM_NIXL_")) or name == ENV_PACE,
            message=f"remove this variable: LLMSERVICE_* and VLLM_NIXL_* are set by the operator (free: {ENV_PACE})",
        )
    ),
]
