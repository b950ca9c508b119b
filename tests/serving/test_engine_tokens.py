"""Real engines under every policy: a hundred mixed requests give the tokens of stock vLLM; so do two engines that split
each request between them (prefill, KV over NIXL, decode)."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.engine import local
from llmservice_core.policies import NAMES, STOCK
from tests.serving.engine_room import require_engine_environment, run_inside

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).with_name("engine_tokens.py")
OURS = tuple(name for name in NAMES if name != STOCK)
HOLD_BACK = ("slai", "slai-plus", "slai-published", "rad", "mlfq")
"""Policies that let decodes wait."""
PAIRS_AT_ONCE = 2
FOR_REMOTE_DECODE: dict[str, Any] = {
    "do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None,
    "remote_host": None, "remote_port": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def served() -> dict[str, dict[str, Any]]:
    require_engine_environment()
    seen: dict[str, dict[str, Any]] = run_inside(SCRIPT, *NAMES, timeout_s=500)
    return seen


@pytest.mark.parametrize("policy", NAMES)
def test_a_hundred_mixed_requests_with_aborts_and_preemptions_give_stocks_tokens(
    served: dict[str, dict[str, Any]], policy: str
) -> None:
    seen, stock = served[policy], served["stock"]
    assert seen["policy"] == (policy if policy != STOCK else "stock")
    assert seen["tokens"] == stock["tokens"]
    assert (len(seen["tokens"]), seen["aborted"]) == (89, 11)
    assert seen["preemptions"] > 0, "no pressure on the KV cache: proves nothing"
    assert seen["blocks_left"] == 0
    assert (seen["hidden"] > 50) == (policy in HOLD_BACK)


def test_fcfs_is_stock_step_by_step(served: dict[str, dict[str, Any]]) -> None:
    assert served["fcfs"]["steps"] == served["stock"]["steps"]


# Two engines


def prompt(seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(4, 1000) for _ in range(40 + 56 * seed % 500)]


def complete(engine: local.Engine, seed: int, tokens: int, **fields: Any) -> dict[str, Any]:
    targets = {"class": "chat", "tbt_s": 0.02 if seed % 3 else 2.0, "ttft_s": 5.0, "tenant": f"t{seed % 2}"}
    body = {"model": "tiny", "prompt": prompt(seed), "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True, "vllm_xargs": targets, **fields}  # fmt: skip
    reply = httpx.post(f"{engine.url}/v1/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def in_two_steps(prefill: local.Engine, decode: local.Engine, seed: int) -> list[int]:
    first = complete(prefill, seed, 1, kv_transfer_params=FOR_REMOTE_DECODE)
    second = complete(decode, seed, 24, kv_transfer_params=first["kv_transfer_params"])
    ids: list[int] = second["choices"][0]["token_ids"]
    return ids


def pair(policy: str) -> tuple[local.Options, local.Options]:
    """A decode engine that must often wait for blocks, a prefill engine that needs several steps for a prompt."""
    ports = local.free_ports(6)
    return (
        local.Options(role="prefill", port=ports[0], metrics_port=ports[1], nixl_port=ports[2], policy=policy,
                      max_batched_tokens=128),
        local.Options(role="decode", port=ports[3], metrics_port=ports[4], nixl_port=ports[5], policy=policy,
                      max_batched_tokens=128, kv_bytes=8 * 2**20),
    )  # fmt: skip


@pytest.fixture(scope="module")
def split() -> dict[str, list[list[int]]]:
    """Thirty requests at once through a pair of each policy, and through one stock engine."""
    require_engine_environment()
    stock_port = local.free_ports(2)
    found = {}
    with local.engines(local.Options(port=stock_port[0], metrics_port=stock_port[1], stock=True)) as (stock,):
        found["stock"] = [complete(stock, seed, 24)["choices"][0]["token_ids"] for seed in range(30)]
    for at in range(0, len(OURS), PAIRS_AT_ONCE):
        policies = OURS[at : at + PAIRS_AT_ONCE]
        with local.engines(*(options for policy in policies for options in pair(policy))) as engines:
            for i, policy in enumerate(policies):
                prefill, decode = engines[2 * i : 2 * i + 2]
                with ThreadPoolExecutor(30) as pool:
                    found[policy] = list(pool.map(lambda s, p=prefill, d=decode: in_two_steps(p, d, s), range(30)))
    return found


@pytest.mark.parametrize("policy", OURS)
def test_split_between_two_engines_gives_stocks_tokens(split: dict[str, list[list[int]]], policy: str) -> None:
    assert split[policy] == split["stock"]
