"""LLMServices for the tests of the whole chain: the tiny model, small and quick, real in every part."""

from typing import Any

from e2e.demo.services import KV_BYTES_PER_TOKEN, local_engine
from e2e.engine import models
from e2e.images.engine_template import engine_template, model_path
from llmservice_core import contract

NAMESPACE = "chain"
KV_TOKENS = 16_384
PACE = "rtx4090-mistral-7b,scale=8"


def disaggregated(name: str) -> dict[str, Any]:
    return service(name, disaggregation="Always", pools={pool: pool_of(1, 2) for pool in ("prefill", "decode")})


def mixed(name: str, **spec: Any) -> dict[str, Any]:
    return service(name, disaggregation="Never", pools={"mixed": pool_of(1, 2)}, **spec)


def leaving(name: str, *, prefill: int, decode: int, routers: int = 1) -> dict[str, Any]:
    """Sizes that stay as they are set, and steps as long as a card's, so that answers last for seconds."""
    made = service(
        name,
        disaggregation="Always",
        pools={"prefill": pool_of(prefill, prefill), "decode": pool_of(decode, decode)},
        scaling={"interval": "5s", "gpuBudget": 8, "scaleDown": {"stabilization": "0s", "drainDeadline": "100s"}},
        router={"replicas": routers},
    )
    made["spec"]["engine"] = local_engine(kv_bytes=KV_TOKENS * KV_BYTES_PER_TOKEN, **{contract.ENV_PACE: PACE})
    return made


def asleep(name: str, idle_after: str) -> dict[str, Any]:
    """No engine until the first request, and none again soon after the last."""
    return service(
        name,
        disaggregation="Always",
        pools={pool: pool_of(0, 1) for pool in ("prefill", "decode")},
        scaling={"interval": "5s", "gpuBudget": 2, "idleAfter": idle_after},
    )


def lone_pair(name: str) -> dict[str, Any]:
    """One engine in each pool and not a GPU more: a new revision has to wait until the old one is gone."""
    made = leaving(name, prefill=1, decode=1)
    made["spec"]["scaling"]["gpuBudget"] = 2
    return made


def pool_of(least: int, most: int) -> dict[str, Any]:
    return {"minReplicas": least, "maxReplicas": most, "gpusPerReplica": 1, "template": engine_template()}


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{contract.GROUP}/{contract.VERSION}",
        "kind": contract.KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "model": {"name": model_path(models.TINY), "servedName": name, "maxModelLen": 2048},
            "classes": [
                {
                    "name": "interactive",
                    "ttft": {"target": "2s", "percentile": 95},
                    "tbt": {"target": "200ms", "percentile": 99},
                    "weight": 10,
                    "default": True,
                },
                {
                    "name": "batch",
                    "ttft": {"target": "30s", "percentile": 95},
                    "tbt": {"target": "1s", "percentile": 99},
                },
            ],
            "scaling": {"interval": "5s", "gpuBudget": 4},
            "engine": local_engine(kv_bytes=KV_TOKENS * KV_BYTES_PER_TOKEN),
            "metrics": {"prometheusURL": "http://prometheus.monitoring:9090"},
            **spec,
        },
    }
