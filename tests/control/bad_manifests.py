"""Table of bad LLMServices: how each is made from the good one, and words that its refusal must contain."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]

GOOD: Body = {
    "apiVersion": "llmservice.dev/v1alpha1",
    "kind": "LLMService",
    "metadata": {"name": "chat"},
    "spec": {
        "model": {"name": "org/model"},
        "classes": [
            {
                "name": "interactive",
                "ttft": {"target": "500ms", "percentile": 95},
                "tbt": {"target": "50ms", "percentile": 99},
            },
            {
                "name": "batch",
                "default": True,
                "ttft": {"target": "30s", "percentile": 95},
                "tbt": {"target": "500ms", "percentile": 99},
            },
        ],
        "disaggregation": "Always",
        "pools": {
            "prefill": {"minReplicas": 1, "maxReplicas": 8},
            "decode": {"minReplicas": 1, "maxReplicas": 8, "gpusPerReplica": 2},
        },
        "scaling": {"gpuBudget": 12},
    },
}


@dataclass(frozen=True)
class Bad:
    name: str
    change: Callable[[Body], Any]
    words: str
    """Part of the API server's sentence."""
    model_words: str | None = ""
    """Part of the model's sentence; "" = the same words; None = the model accepts it (only strict clients refuse)."""

    def body(self) -> Body:
        body = copy.deepcopy(GOOD)
        self.change(body)
        return body


def put(path: str, value: Any) -> Callable[[Body], None]:
    """`spec.classes.0.name`: numbers are places in lists; the last part is set."""

    def change(body: Body) -> None:
        *way, last = path.split(".")
        node: Any = body
        for part in way:
            node = node[int(part)] if part.isdigit() else node.setdefault(part, {})
        node[int(last) if last.isdigit() else last] = value

    return change


def drop(path: str) -> Callable[[Body], None]:
    def change(body: Body) -> None:
        *way, last = path.split(".")
        node: Any = body
        for part in way:
            node = node[int(part)] if part.isdigit() else node[part]
        del node[int(last) if last.isdigit() else last]

    return change


def both(*changes: Callable[[Body], None]) -> Callable[[Body], None]:
    def change(body: Body) -> None:
        for one in changes:
            one(body)

    return change


def _many_classes(body: Body) -> None:
    one = body["spec"]["classes"][0]
    body["spec"]["classes"] = [one | {"name": f"c{i}", "default": i == 0} for i in range(17)]


DURATION = "write a duration as a number with its unit, for example 500ms, 30s or 2m"
PERCENTILE = "a percentile lies above 0 and below 100"
MIXED = {"mixed": {"maxReplicas": 4}}
TTFT, TBT = "spec.classes.0.ttft", "spec.classes.0.tbt"

OWNED = [
    "--port=1",
    "--port",
    "--scheduler_cls=x",
    "--scheduler-c",
    "--tensor-parallel-size=2",
    "--tensor_parallel=2",
    "-tp",
    "-tp=2",
    "-t",
    "--kv-transfer-config",
    "--kv_transfer_config.kv_role=kv_producer",
    "--shutdown_timeout=1",
    "--revision=v1",
    "--max-model-len",
    "--max_num_batched_tokens=1",
    "--config",
    "--no-enable-prompt-tokens-details",
]
"""vLLM reads underscores as dashes, takes abbreviations, and fields of a JSON argument one by one."""

FREE_ARGS = [
    "--max-num-seqs=16",
    "--max_num_seqs",
    "--config-format=hf",
    "--model-impl",
    "--tokenizer-revision=v1",
    "--enable-prefix-caching",
    "-pp=2",
    "-1",
    "-",
    "--",
    "m",
    "=",
    "",
    "a.b=c",
]

CASES = [
    Bad("unknown field", put("spec.clases", []), 'unknown field "spec.clases"', None),
    Bad("unknown field deep down", put(f"{TTFT}.percentil", 95), "unknown field", None),
    Bad("no spec", drop("spec"), "spec: Required value", "Field required"),
    Bad("no model", drop("spec.model"), "spec.model: Required value", "Field required"),
    Bad("empty model", put("spec.model.name", ""), "name the model: an id of the hub"),
    Bad("model with a space", put("spec.model.name", "my model"), "name the model: an id of the hub"),
    Bad("two defaults", put("spec.classes.0.default", True), "more than one class is the default"),
    Bad("no default", put("spec.classes.1.default", False), "no class is the default: mark exactly one"),
    Bad("no classes", put("spec.classes", []), "should have at least 1 items", "at least 1 item"),
    Bad("too many classes", _many_classes, "must have at most 16 items", "at most 16 items"),
    Bad("same class twice", put("spec.classes.0.name", "batch"), "Duplicate value", "two classes have the same name"),
    Bad("capital in a class name", put("spec.classes.0.name", "Interactive"), "small letters, digits and dashes"),
    Bad("class without a name", drop("spec.classes.0.name"), "spec.classes[0].name: Required value", "Field required"),
    Bad("class without TBT", drop(TBT), "spec.classes[0].tbt: Required value", "Field required"),
    Bad("percentile 0", put(f"{TTFT}.percentile", 0), PERCENTILE),
    Bad("percentile 100", put(f"{TTFT}.percentile", 100), PERCENTILE),
    Bad("percentile 150", put(f"{TBT}.percentile", 150), PERCENTILE),
    Bad("percentile in words", put(f"{TBT}.percentile", "p99"), "must be of type number", "valid number"),
    Bad("no percentile", drop(f"{TTFT}.percentile"), "percentile: Required value", "Field required"),
    Bad("target without unit", put(f"{TTFT}.target", "500"), DURATION),
    Bad("target as a number", put(f"{TTFT}.target", 500), "must be of type string", "valid string"),
    Bad("target with a wrong unit", put(f"{TTFT}.target", "500msec"), DURATION),
    Bad("negative target", put(f"{TTFT}.target", "-500ms"), DURATION),
    Bad("target 0", put(f"{TBT}.target", "0s"), DURATION),
    Bad("target of a day", put(f"{TTFT}.target", "24h"), "from 1ms to 1h"),
    Bad("weight 0", put("spec.classes.0.weight", 0), "a weight lies above 0"),
    Bad("weight negative", put("spec.classes.0.weight", -1), "a weight lies above 0"),
    Bad("max below min", put("spec.pools.prefill.minReplicas", 9), "raise maxReplicas or lower minReplicas"),
    Bad("min 0 in one pool", put("spec.pools.decode.minReplicas", 0), "one pool may be empty and the other not"),
    Bad("min negative", put("spec.pools.decode.minReplicas", -1), "greater than or equal to 0"),
    Bad("max 0", put("spec.pools.decode.maxReplicas", 0), "greater than or equal to 1"),
    Bad("idle for a moment", put("spec.scaling.idleAfter", "1s"), DURATION),
    Bad("no max", drop("spec.pools.decode.maxReplicas"), "maxReplicas: Required value", "Field required"),
    Bad("half a replica", put("spec.pools.decode.maxReplicas", 1.5), "must be of type integer", "valid integer"),
    Bad("no GPU", put("spec.pools.decode.gpusPerReplica", 0), "greater than or equal to 1"),
    Bad("budget below the minimum", put("spec.scaling.gpuBudget", 2), "raise gpuBudget or lower minReplicas"),
    Bad("budget 0", put("spec.scaling.gpuBudget", 0), "greater than or equal to 1"),
    Bad(
        "unknown policy",
        put("spec.engine.scheduler.policy", "slia"),
        '"slai-plus", "slai", "slai-published"',
        "'slai-plus', 'slai', 'slai-published'",
    ),
    Bad("unknown shedding", put("spec.classes.0.shed", "Always"), '"Never", "Late"', "'Never' or 'Late'"),
    Bad(
        "unknown routing",
        put("spec.router.routing", "jsq"),
        '"shortest-queue", "random", "power-of-two", "prefix-affinity", "session"',
        "'shortest-queue', 'random', 'power-of-two', 'prefix-affinity' or 'session'",
    ),
    Bad("token budget 0", put("spec.engine.scheduler.tokenBudget", 0), "number of tokens of at least 16"),
    Bad("token budget in words", put("spec.engine.scheduler.tokenBudget", "many"), "write auto, or a number"),
    Bad("unknown mode", put("spec.scaling.mode", "auto"), '"Auto", "Recommend", "Off"', "'Auto', 'Recommend' or 'Off'"),
    Bad("load 1", put("spec.scaling.targetLoad", 1), "targetLoad lies above 0 and below 1"),
    Bad("interval of a second", put("spec.scaling.interval", "1s"), "from 5s to 10m"),
    Bad("a drain deadline without a unit", put("spec.scaling.scaleDown.drainDeadline", "900"), "write a duration"),
    Bad("stabilization in words", put("spec.scaling.scaleDown.stabilization", "long"), "write auto, or a duration"),
    Bad("Auto is not there yet", put("spec.disaggregation", "Auto"), "Auto is not available yet"),
    Bad("unknown disaggregation", put("spec.disaggregation", "Sometimes"), "must be Always (prefill and decode"),
    Bad("Never with P/D pools", put("spec.disaggregation", "Never"), "Never needs pools.mixed and neither"),
    Bad("Always with a mixed pool", put("spec.pools", MIXED), "Always needs pools.prefill and pools.decode"),
    Bad("Always without decode", drop("spec.pools.decode"), "Always needs pools.prefill and pools.decode"),
    Bad("all three pools", put("spec.pools.mixed", {"maxReplicas": 4}), "and no pools.mixed"),
    Bad("no pools", drop("spec.pools"), "spec.pools: Required value", "Field required"),
    Bad("Prometheus without scheme", put("spec.metrics.prometheusURL", "prometheus:9090"), "write the whole URL"),
    *(
        Bad(
            f"own argument {argument}", put("spec.engine.args", ["--max-num-seqs=16", argument]), "remove this argument"
        )
        for argument in OWNED
    ),
    Bad("own identity", put("spec.engine.env", [{"name": "LLMSERVICE_POOL", "value": "x"}]), "remove this variable"),
    Bad("variable without name", put("spec.engine.env", [{"value": "x"}]), "name: Required value", "Field required"),
    Bad("access without a Secret", put("spec.router.access", {}), "apiKeysSecret: Required value", "Field required"),
    Bad("no name of a Secret", put("spec.router.access", {"apiKeysSecret": "My Keys"}), "name a Secret of this"),
    Bad("long name", put("metadata.name", "c" * 41), "use at most 40 small letters"),
    Bad("name begins with a digit", put("metadata.name", "7b"), "begin with a letter"),
    Bad("template of another shape", put("spec.pools.decode.template", []), "must be of type object", "valid"),
    Bad("template is not a pod template", put("spec.pools.decode.template", {"sepc": {}}), "unknown field", None),
]
