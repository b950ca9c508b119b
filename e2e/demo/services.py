"""The two LLMServices of the demo, as a user would write them. Only `template` differs from a real cluster: there the
engine image brings Python and vLLM along, here pods mount the machine's own."""

from typing import Any

from e2e.engine import models
from e2e.images.engine_template import engine_args, engine_env, engine_template, model_path
from llmservice_core import contract

NAMESPACE = "demo"
SCALE = 8
"""One token of the tiny model stands for eight: lengths and batch widths shrink by it, rates and latencies do not."""
KV_BYTES_PER_TOKEN = 2048
"""Tiny model in fp32: 2 layers x (K and V) x 2 heads x 64 x 4 bytes."""
CARD_KV_TOKENS = 235_728
"""KV tokens that SLAI's card holds for Mistral-7B; residents and their lengths both shrink by SCALE, so by SCALE^2."""
CLASSES = {"interactive": (2.0, 0.1), "batch": (20.0, 0.5)}
"""Targets in seconds: TTFT, TBT."""


def chat() -> dict[str, Any]:
    """One question, one prefill and one decode pod, kept on different nodes."""
    return _service(
        "chat",
        model={"name": model_path(models.SMOLLM), "servedName": "chat", "maxModelLen": 1024},
        classes=[_class("interactive", 10.0, 1.0, 10, default=True)],
        pools={pool: _pool(1, 1, _apart(engine_template(), "chat")) for pool in ("prefill", "decode")},
        engine=local_engine(kv_bytes=256 << 20, dtype="bfloat16"),
    )


def paced() -> dict[str, Any]:
    """The tiny model at the pace of Mistral-7B on an RTX 4090, two classes, six GPUs to share."""
    kv_bytes = CARD_KV_TOKENS // SCALE**2 * KV_BYTES_PER_TOKEN
    engine = local_engine(kv_bytes=kv_bytes, **{contract.ENV_PACE: f"rtx4090-mistral-7b,scale={SCALE}"})
    (strict_ttft_s, strict_tbt_s), (batch_ttft_s, batch_tbt_s) = CLASSES.values()
    service = _service(
        "paced",
        model={"name": model_path(models.TINY), "servedName": "paced", "maxModelLen": 9216 // SCALE},
        classes=[
            _class("interactive", strict_ttft_s, strict_tbt_s, 10, default=True),
            _class("batch", batch_ttft_s, batch_tbt_s, 1),
        ],
        pools={pool: _pool(1, 5, engine_template()) for pool in ("prefill", "decode")},
        engine={
            **engine,
            "args": [*engine["args"], f"--max-num-seqs={128 // SCALE}"],
            "scheduler": {"tokenBudget": 768 // SCALE},
        },
    )
    service["spec"]["scaling"] = {"mode": "Auto", "gpuBudget": 6, "interval": "5s"}
    return service


def local_engine(*, kv_bytes: int, dtype: str = "float32", **more: str) -> dict[str, Any]:
    """`spec.engine` for engines that run from this machine's own files. The image is the one that was installed: the
    operator's default, which an edit of the code between install and here does not change."""
    return {
        "env": engine_env(**more),
        "args": [*engine_args(), f"--dtype={dtype}", f"--kv-cache-memory-bytes={kv_bytes}"],
    }


def _service(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{contract.GROUP}/{contract.VERSION}",
        "kind": contract.KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            **spec,
            "disaggregation": "Always",
            "metrics": {"prometheusURL": "http://prometheus.monitoring:9090"},
        },
    }


def _class(name: str, ttft_s: float, tbt_s: float, weight: int, *, default: bool = False) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "ttft": {"target": f"{ttft_s * 1000:.0f}ms", "percentile": 95},
        "tbt": {"target": f"{tbt_s * 1000:.0f}ms", "percentile": 99},
        "weight": weight,
    }
    return {**row, "default": True} if default else row


def _pool(least: int, most: int, template: dict[str, Any]) -> dict[str, Any]:
    return {"minReplicas": least, "maxReplicas": most, "gpusPerReplica": 1, "template": template}


def _apart(template: dict[str, Any], name: str) -> dict[str, Any]:
    """The KV must cross nodes for the proof: no two engine pods of the service on one node."""
    rule = {
        "labelSelector": {
            "matchLabels": {contract.LABEL_NAME: name, contract.LABEL_COMPONENT: contract.COMPONENT_ENGINE}
        },
        "topologyKey": "kubernetes.io/hostname",
    }
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [rule]}}
    return {**template, "spec": {**template["spec"], "affinity": affinity}}
