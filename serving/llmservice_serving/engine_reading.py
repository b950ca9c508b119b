"""What an engine says of itself, read off vLLM's scheduler by attribute. No vLLM import; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmservice_core.latency import Work, batch_work
from llmservice_core.policy_slai import Slai
from llmservice_serving.engine_numbers import Limits, Live

TILE_TOKENS, BIN_TOKENS = 128, 64


def limits_of(scheduler: Any, scale: int) -> Limits:
    """`scale`: real tokens for each token of a paced small model."""
    return Limits(
        kv_tokens=scheduler.cache_config.num_gpu_blocks * scheduler.block_size,
        max_batched_tokens=scheduler.max_num_scheduled_tokens,
        max_seqs=scheduler.max_num_running_reqs,
        tile_tokens=max(1, TILE_TOKENS // scale),
        bin_tokens=max(1, BIN_TOKENS // scale),
    )


def live_of(scheduler: Any, hidden: int, unpulled: Mapping[str, int]) -> Live:
    """Called from the exporter's thread: copies first, counts then."""
    running = list(scheduler.running)
    prefills = sum(r.is_prefill_chunk for r in running)
    usage, policy = scheduler.kv_cache_manager.usage, scheduler.driver.policy if scheduler.driver else None
    return Live(
        waiting=len(scheduler.waiting) + len(scheduler.kv_holding_waiting),
        prefills=prefills,
        decodes=len(running) - prefills,
        hidden=hidden,
        unpulled_blocks=sum(list(unpulled.values())),
        kv_usage=usage,
        theta=policy.theta(usage) if isinstance(policy, Slai) else None,
    )


def step_work(requests: Mapping[str, Any], scheduled: Mapping[str, int], most_decode_tokens: int) -> Work:
    """What was scheduled, before the requests' counters move."""
    return batch_work(
        list(scheduled.values()), [requests[i].num_computed_tokens for i in scheduled], most_decode_tokens
    )
