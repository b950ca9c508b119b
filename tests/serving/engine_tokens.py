"""Runs inside the engine environment: a real engine in this process for each policy, the same hundred requests.

python engine_tokens.py POLICY ...         prints, for stock and each policy, tokens, hidden decodes and pre-emptions

fp32 and greedy, so equal tokens mean an equal computation. The KV cache holds a fraction of them, so requests are
pre-empted; every ninth client goes away after some tokens; requests arrive over the steps, of both classes and none.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm import EngineArgs, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.v1.engine.llm_engine import LLMEngine

MODEL = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmservice" / "models" / "tiny"
REQUESTS, KV_BYTES = 100, 3 * 2**20
"""1,536 tokens of KV: the longest request needs 620."""
STOCK = "stock"


def requests() -> list[tuple[list[int], int, dict[str, Any] | None]]:
    kinds: tuple[dict[str, Any] | None, ...] = (
        {"class": "batch", "tenant": "a", "ttft_s": 30.0, "tbt_s": 5.0},
        {"class": "interactive", "tenant": "b", "ttft_s": 0.05, "tbt_s": 0.02},
        {"class": "batch", "tenant": "b", "ttft_s": 30.0, "tbt_s": 5.0},
        None,
    )
    rows = []
    for i in range(REQUESTS):
        draw = random.Random(i)
        prompt = [draw.randrange(4, 1000) for _ in range(20 + 37 * i % 560)]
        if i % 5 == 0:
            prompt[:96] = range(100, 196)  # three blocks that the prefix cache may know
        rows.append((prompt, 6 + 7 * i % 50, kinds[i % 4]))
    return rows


def engine(policy: str) -> LLMEngine:
    ours = {} if policy == STOCK else {
        "scheduler_cls": "llmservice_serving.vllm_scheduler.SLAI",
        "additional_config": {"llmservice": {"policy": policy}},
    }  # fmt: skip
    arguments = EngineArgs(
        model=str(MODEL), dtype="float32", enforce_eager=True, max_model_len=1024, max_num_seqs=24, seed=0,
        max_num_batched_tokens=128, block_size=32, kv_cache_memory_bytes=KV_BYTES, skip_tokenizer_init=True, **ours,
    )  # fmt: skip
    return LLMEngine.from_engine_args(arguments)


def scheduler_of(e: LLMEngine) -> Any:
    return e.engine_core.engine_core.scheduler


def serve(policy: str) -> dict[str, Any]:
    """Three requests come with every second step; every ninth is aborted after three tokens."""
    e = engine(policy)
    waiting = list(enumerate(requests()))[::-1]
    tokens: dict[str, list[int]] = {}
    aborted: list[str] = []
    steps = 0
    while waiting or e.has_unfinished_requests():
        for _ in range(3 if steps % 2 == 0 else 0):
            if waiting:
                add(e, *waiting.pop())
        steps += 1
        for output in e.step():
            tokens[output.request_id] = list(output.outputs[0].token_ids)
            if int(output.request_id) % 9 == 4 and len(tokens[output.request_id]) == 3:
                e.abort_request([output.request_id])
                aborted.append(output.request_id)
    s = scheduler_of(e)
    numbers = s._clock.numbers if policy != STOCK else None
    free = s.kv_cache_manager.block_pool.get_num_free_blocks()
    seen = {
        "tokens": {i: ids for i, ids in tokens.items() if i not in aborted},
        "aborted": len(aborted),
        "steps": steps,
        "hidden": numbers.hidden_decodes if numbers else 0,
        "policy": s.driver.policy.name if numbers and s.driver else STOCK,
        "blocks_left": s.cache_config.num_gpu_blocks - 1 - free,
        "preemptions": PREEMPTED[0],
    }
    PREEMPTED[0] = 0
    del e, s
    gc.collect()
    cleanup_dist_env_and_memory()
    return seen


PREEMPTED = [0]


def count_preemptions() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    plain = Scheduler._preempt_request

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        PREEMPTED[0] += 1
        return plain(self, *args, **kwargs)

    Scheduler._preempt_request = counted


def add(e: LLMEngine, number: int, row: tuple[list[int], int, dict[str, Any] | None]) -> None:
    prompt, answer, extra = row
    params = SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True, extra_args=extra, detokenize=False)
    e.add_request(str(number), {"prompt_token_ids": prompt}, params)


if __name__ == "__main__":
    count_preemptions()
    print(json.dumps({policy: serve(policy) for policy in (STOCK, *sys.argv[1:])}))
