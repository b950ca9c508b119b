"""Prints serving/llmservice_core/data/step_models.json from the measured tables in bench/data/step-times.

    python bench/data/make_step_models.py > serving/llmservice_core/data/step_models.json

A test fails when the two differ. Adds nothing of its own but names, and thins the H100 table (measured at every T) to
multiples of 8: with lookup at the next higher T that moves no tile edge.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TABLES = Path(__file__).with_name("step-times")
MODELS = {  # name: (gpu and model in step_model.csv, gpu and model in layer_times_full.csv.gz)
    "rtx4090-mistral-7b": (("RTX6000Ada (SLAI-calibrated)", "Mistral-7B"), ("RTX4090", "Llama-3.1-8B")),
    "rtx4090-llama-3.1-8b": (("RTX4090", "Llama-3.1-8B"), ("RTX4090", "Llama-3.1-8B")),
    "a100-llama-3-8b": (("A100-80GB", "Llama-3-8B or Mistral-7B"), ("A100-80GB", "Llama-3-8B")),
    "h100-llama-3.1-8b": (("H100-SXM", "Llama-3.1-8B or Mistral-7B"), ("H100-SXM", "Llama-3.1-8B")),
}
COEFFICIENTS = {
    "c0": "base_us",
    "c_qctx": "per_attention_token2_us",
    "c_q": "per_new_token_us",
    "c_ctx": "per_context_token_us",
    "c_nkv": "per_decode_kv_token_us",
    "c_n": "per_decode_us",
    "c_kvmean": "per_mean_kv_token_us",
}


def models() -> dict[str, dict[str, Any]]:
    fits = {(r["gpu"], r["model"]): r for r in csv.DictReader((TABLES / "step_model.csv").open())}
    return {name: model(fits[fit], table) for name, (fit, table) in MODELS.items()}


def model(fit: dict[str, str], table: tuple[str, str]) -> dict[str, Any]:
    return {
        "source": f"{fit['gpu']}, {fit['model']}; layer table {table[0]} {table[1]}; {fit['note']}",
        "layers": int(fit["layers"]),
        "overhead_s": float(fit["overhead_ms_with_lookup"] or 0) / 1000,
        "head_base_us": float(fit["head_base_us"]),
        "head_per_sequence_us": float(fit["head_per_seq_us"]),
        "kv_bytes_per_token": int(fit["kv_bytes_per_token"]),
        "attention": {
            kind: attention(fit, short) for kind, short in (("prefill", "pre"), ("decode", "dec"), ("mixed", "mix"))
        },
        "rows": list(rows(*table)),
    }


def attention(fit: dict[str, str], kind: str) -> dict[str, float] | None:
    """The coefficients that were fitted; None if the kind was never measured on this card."""
    found = {name: float(fit[f"{kind}_{short}"]) for short, name in COEFFICIENTS.items() if fit[f"{kind}_{short}"]}
    return found or None


def rows(gpu: str, name: str) -> Iterator[tuple[int, float, float]]:
    with gzip.open(TABLES / "layer_times_full.csv.gz", "rt") as table:
        for r in csv.DictReader(table):
            tokens = int(r["tokens"])
            dense = gpu == "H100-SXM" and tokens > 16 and tokens % 8
            if (r["gpu"], r["model"]) == (gpu, name) and not dense:
                yield tokens, float(r["linear_us_per_layer"]), float(r["elementwise_us_per_layer"])


def printed() -> str:
    """One model per line, so that a change shows in a diff as the models it touches."""
    lines = (f"{json.dumps(name)}: {json.dumps(m, separators=(',', ':'))}" for name, m in models().items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    sys.stdout.write(printed())
