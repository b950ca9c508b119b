"""Runs inside the engine environment: what vLLM tells of its prefix cache while our scheduler orders the steps.

python engine_kv_events.py CLASS,POLICY ...     CLASS: ours | stock; one result for each

Forty requests, in pairs with a common prefix, and a cache too small for them: blocks are stored, shared and evicted.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import engine_drive as drive
from vllm.config import KVEventsConfig
from vllm.distributed.kv_events import BlockRemoved, BlockStored
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import (
    get_block_hash,
    get_request_block_hasher,
    init_none_hash,
    maybe_convert_block_hash,
)
from vllm.v1.request import Request

BLOCKS = 150
EVENTS = KVEventsConfig(enable_kv_cache_events=True, publisher="null")


class Listener:
    """Keeps the set of cached blocks as a router would, from the events alone."""

    def __init__(self) -> None:
        self.cached: set[Any] = set()
        self.stored = self.removed = 0

    def publish(self, batch: Any) -> None:
        for event in batch.events:
            if isinstance(event, BlockStored):
                self.cached |= set(event.block_hashes)
                self.stored += len(event.block_hashes)
            elif isinstance(event, BlockRemoved):
                self.cached -= set(event.block_hashes)
                self.removed += len(event.block_hashes)


def request(number: int) -> Request:
    """One prefix for two requests, then tokens of its own."""
    pair, length = number // 2, 20 + 53 * number % 400
    prompt = [*(10 + pair for _ in range(length // 2)), *(100 + number + i for i in range(length - length // 2))]
    params = SamplingParams(max_tokens=5 + 11 * number % 60, ignore_eos=True, extra_args={"class": "c", "tbt_s": 0.5})
    params.update_from_generation_config({}, eos_token_id=2)
    return Request(
        request_id=f"r{number}", prompt_token_ids=prompt, sampling_params=params, pooling_params=None,
        block_hasher=get_request_block_hasher(drive.BLOCK, sha256),
    )  # fmt: skip


def run(which: str, policy: str) -> dict[str, Any]:
    os.environ["LLMSERVICE_POLICY"] = policy
    s = drive.scheduler(which, is_async=False, blocks=BLOCKS, events=EVENTS)
    listener = Listener()
    s.kv_event_publisher.publish = listener.publish
    requests = {r.request_id: r for r in map(request, range(40))}
    waiting, wrong_steps = list(requests.values()), 0
    for number in range(20_000):
        if waiting and number % 3 == 0:
            s.add_request(waiting.pop(0))
        if s.has_requests():
            drive.step(s, requests)
            wrong_steps += listener.cached != held(s)
        elif not waiting:
            break
    return {
        "lengths": {i: r.num_output_tokens for i, r in requests.items()},
        "wanted": {i: r.max_tokens for i, r in requests.items()},
        "wrong_steps": wrong_steps,
        "stored": listener.stored,
        "removed": listener.removed,
        "preemptions": sum(r.num_preemptions for r in requests.values()),
        "hidden": s._clock.numbers.hidden_decodes if which == "ours" else 0,
    }


def held(s: Any) -> set[Any]:
    """Hashes, as events carry them, of the blocks that the cache itself holds."""
    hashes = (block.block_hash for block in s.kv_cache_manager.block_pool.blocks)
    return {maybe_convert_block_hash(get_block_hash(h)) for h in hashes if h is not None}


if __name__ == "__main__":
    init_none_hash(sha256)
    print(json.dumps([run(*kind.split(",")) for kind in sys.argv[1:]]))
