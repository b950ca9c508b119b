"""What one local engine is started with, and the command and environment that follow from it. Starts nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from e2e.engine import env, models
from llmservice_core import contract
from llmservice_core.policies import DEFAULT
from llmservice_operator.child_engine import kv_transfer

ROLES = ("prefill", "decode", "mixed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one engine is started with. `stock` leaves our scheduler out altogether."""

    role: str = "mixed"
    port: int
    metrics_port: int
    nixl_port: int | None = None
    """NIXL side channel; None leaves the KV connector out (a mixed engine needs none)."""
    pace: str | None = None
    policy: str = DEFAULT
    stock: bool = False
    model: str = models.TINY
    served_name: str = "tiny"
    dtype: str = "float32"
    max_model_len: int = 2048
    max_batched_tokens: int = 512
    max_seqs: int = 64
    kv_bytes: int = 64 << 20
    block_size: int = 32
    service: str = "local/local"
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def command(o: Options) -> list[str]:
    """The `vllm serve` line, as in a pod but for ports and the size of the KV cache."""
    line = [
        str(env.ensure() / "bin" / "vllm"),
        "serve",
        str(models.ensure(o.model)),
        "--served-model-name",
        o.served_name,
        "--host",
        "127.0.0.1",
        "--port",
        str(o.port),
        "--dtype",
        o.dtype,
        "--enforce-eager",
        "--max-model-len",
        str(o.max_model_len),
        "--kv-cache-memory-bytes",
        str(o.kv_bytes),
        "--block-size",
        str(o.block_size),
        "--max-num-batched-tokens",
        str(o.max_batched_tokens),
        "--max-num-seqs",
        str(o.max_seqs),
    ]
    if not o.stock:
        line += ["--scheduler-cls", contract.SCHEDULER_CLASS]
    if o.nixl_port is not None:
        line += ["--kv-transfer-config", json.dumps(kv_transfer())]
    return [*line, *o.args]


def environment(o: Options) -> dict[str, str]:
    """Settings that make vLLM behave on few cores, and ours. Nothing of the caller's Python leaks in."""
    outer = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    ours = {
        "PYTHONPATH": str(env.ROOT / "serving"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        contract.ENV_SERVICE: o.service,
        contract.ENV_POOL: o.role,
        contract.ENV_POLICY: o.policy,
        contract.ENV_METRICS_PORT: str(o.metrics_port),
        contract.ENV_METRICS_HOST: "127.0.0.1",
    }
    if o.pace:
        ours[contract.ENV_PACE] = o.pace
    if o.nixl_port is not None:
        ours |= {contract.ENV_NIXL_HOST: "127.0.0.1", contract.ENV_NIXL_PORT: str(o.nixl_port)}
    return {**outer, **ours, **o.env}
