"""Which replica a model on a GPU makes: measured step times, memory for KV, the limits that vLLM starts with.

Only what was measured is offered: one GPU per replica, bf16, three models that share their layer shapes. Anything else
is an error whose text says what to change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmservice_core.step_models import names, step_model
from llmservice_sim.engine import EngineLimits
from llmservice_sim.fleet_settings import Replica

GIB = 2**30
MEMORY_SHARE = 0.9
"""vLLM's default --gpu-memory-utilization."""
OTHER_BYTES = 1.7e9
"""Activations, CUDA graphs and the context: what the measured RTX 4090 run (bench/data/engine-e2e, 2,588 blocks of KV)
leaves unexplained. The paper's RTX 6000 Ada setting (14,733 blocks) leaves 1.0e9."""
BYTES_PER_PARAMETER = 2.0
FAMILIES = {
    "llama-3.1-8b": (r"llama-?3\.1-8b", 8.03e9),
    "llama-3-8b": (r"llama-?3-8b", 8.03e9),
    "mistral-7b": (r"mistral-7b", 7.25e9),
}
"""Models whose layers were measured: pattern in the model's name, parameters."""


class HardwareError(ValueError):
    """The service cannot run on this GPU, or nobody measured it; the text says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """`steps`: step model of each family. Budget and requests at once: vLLM's own defaults for `vllm serve`."""

    memory_bytes: float
    steps: dict[str, str]
    max_batched_tokens: int = 2048
    max_seqs: int = 256


GPUS = {
    "rtx4090": Gpu(
        memory_bytes=24 * GIB, steps={"llama-3.1-8b": "rtx4090-llama-3.1-8b", "mistral-7b": "rtx4090-mistral-7b"}
    ),
    "rtx6000ada": Gpu(memory_bytes=48 * GIB, steps={"mistral-7b": "rtx4090-mistral-7b"}),
    "a100": Gpu(memory_bytes=80 * GIB, steps=dict.fromkeys(FAMILIES, "a100-llama-3-8b")),
    "h100": Gpu(
        memory_bytes=80 * GIB,
        steps=dict.fromkeys(FAMILIES, "h100-llama-3.1-8b"),
        max_batched_tokens=8192,
        max_seqs=1024,
    ),
}
DEFAULT_GPU = "a100"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a service says about its engines. None: vLLM's default."""

    model: str
    gpus_per_replica: int = 1
    max_model_len: int | None = None
    max_batched_tokens: int | None = None
    max_seqs: int | None = None
    memory_share: float | None = None


def replica_of(gpu_name: str, wanted: Wanted, noise: float = 0.0) -> Replica:
    """`gpu_name`: one of GPUS, or a whole step model by its name, which then stands in for a model not measured."""
    gpu, steps = _steps(gpu_name, wanted.model)
    if wanted.gpus_per_replica != 1:
        raise HardwareError(
            f"step times were measured on one GPU: set gpusPerReplica to 1 (it is {wanted.gpus_per_replica})"
        )
    model = step_model(steps)
    kv_tokens = _kv_tokens(gpu_name, gpu, wanted, model.kv_bytes_per_token)
    limits = EngineLimits(
        max_batched_tokens=wanted.max_batched_tokens or gpu.max_batched_tokens,
        max_seqs=wanted.max_seqs or gpu.max_seqs,
        kv_blocks=kv_tokens // EngineLimits(kv_blocks=1).block_tokens,
    )
    return Replica(step_time=model.work_s, limits=limits, kv_bytes_per_token=model.kv_bytes_per_token, noise=noise)


def _steps(gpu_name: str, model: str) -> tuple[Gpu, str]:
    if gpu_name in names():
        gpu = next(g for g in GPUS.values() if gpu_name in g.steps.values())
        return gpu, gpu_name
    if gpu_name not in GPUS:
        raise HardwareError(f"no GPU {gpu_name!r} was measured: choose one of {', '.join((*GPUS, *names()))}")
    gpu = GPUS[gpu_name]
    _refuse_too_large(gpu_name, gpu, model)
    family = family_of(model)
    if family is None or family not in gpu.steps:
        raise HardwareError(
            f"no step times of {model} on {gpu_name} were measured: name what stands in for them,"
            f" --gpu {' or '.join(sorted(set(gpu.steps.values())))}"
        )
    return gpu, gpu.steps[family]


def _refuse_too_large(gpu_name: str, gpu: Gpu, model: str) -> None:
    weights, room = weight_bytes(model), MEMORY_SHARE * gpu.memory_bytes - OTHER_BYTES
    if weights is not None and weights > room:
        larger = [name for name, g in GPUS.items() if weights < MEMORY_SHARE * g.memory_bytes - OTHER_BYTES]
        remedy = f"use --gpu {' or '.join(larger)}" if larger else "choose a model that fits on one GPU"
        raise HardwareError(
            f"{model} needs {weights / 1e9:.0f} GB for its weights and {gpu_name} has {room / 1e9:.0f} GB to give:"
            f" {remedy}"
        )


def family_of(model: str) -> str | None:
    return next((f for f, (pattern, _) in FAMILIES.items() if re.search(pattern, model.lower())), None)


def weight_bytes(model: str) -> float | None:
    """bf16; None where the name does not say how many parameters there are."""
    family = family_of(model)
    if family is not None:
        return BYTES_PER_PARAMETER * FAMILIES[family][1]
    found = re.search(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)b(?![a-z0-9])", model.lower())
    return BYTES_PER_PARAMETER * float(found[1] or 1) * float(found[2]) * 1e9 if found else None


def _kv_tokens(gpu_name: str, gpu: Gpu, wanted: Wanted, bytes_per_token: int) -> int:
    weights = weight_bytes(wanted.model) or BYTES_PER_PARAMETER * FAMILIES["llama-3.1-8b"][1]
    share = wanted.memory_share or MEMORY_SHARE
    tokens = int((share * gpu.memory_bytes - weights - OTHER_BYTES) / bytes_per_token)
    if tokens < 16:
        raise HardwareError(f"{wanted.model} leaves no memory for KV on {gpu_name}: use a larger GPU")
    if wanted.max_model_len is not None and wanted.max_model_len > tokens:
        raise HardwareError(
            f"maxModelLen {wanted.max_model_len} does not fit into the memory of {gpu_name}, which holds the KV of"
            f" {tokens} tokens: set maxModelLen to at most {tokens} or use a larger GPU"
        )
    return tokens


def arguments(args: Sequence[str]) -> dict[str, str]:
    """`--name value` and `--name=value` of `vllm serve`, by name; a flag has an empty value."""
    found: dict[str, str] = {}
    for at, text in enumerate(args):
        if text.startswith("--"):
            name, equals, value = text.partition("=")
            following = args[at + 1] if at + 1 < len(args) and not args[at + 1].startswith("--") else ""
            found[name] = value if equals else following
    return found
