"""Runs inside the engine environment: vLLM's scheduler classes without a model. Prints what happened as JSON.

python engine_drive.py signatures
python engine_drive.py drive CLASS,POLICY,sync|async|fenced,KV_BLOCKS ...     CLASS: ours | stock; one result for each
                       fenced: async, and freed blocks wait for steps in flight, as with a KV connector on a GPU
python engine_drive.py fallbacks                               features that no plan counts with
python engine_drive.py pause                                       steps of a paused engine that has work
python engine_drive.py cost RUNNING WAITING CLASS,POLICY ...       microseconds of CPU per step
"""

from __future__ import annotations

import gc
import inspect
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, ParallelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from llmservice_core.step_models import step_model

BLOCK, BUDGET = 16, 128
COST_ROUNDS, COST_STEPS = 15, 8
MODEL = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmservice" / "models" / "tiny"


def signatures() -> dict[str, Any]:
    """Every method of vLLM that we override: their parameters and ours."""
    from llmservice_serving.vllm_scheduler import SLAI

    ours = {name: f for name, f in vars(SLAI).items() if inspect.isfunction(f) and hasattr(Scheduler, name)}
    ours.pop("__init__")
    return {name: {"ours": parameters(f), "vllm": parameters(getattr(Scheduler, name))} for name, f in ours.items()}


def parameters(function: Any) -> list[str]:
    return [p.name if p.default is p.empty else f"{p.name}={p.default}"
            for p in inspect.signature(function).parameters.values()]  # fmt: skip


def scheduler(
    which: str,
    *,
    is_async: bool,
    blocks: int,
    seqs: int = 16,
    budget: int = BUDGET,
    order: Any = "fcfs",
    events: Any = None,
) -> Any:
    """One scheduler. `events`: a KVEventsConfig, then with the prefix cache that they tell of."""
    model = ModelConfig(model=str(MODEL), dtype="float32", seed=0, max_model_len=2048, enforce_eager=True)
    plan = SchedulerConfig(max_num_seqs=seqs, max_num_batched_tokens=max(budget, seqs), max_model_len=2048,
                           enable_chunked_prefill=True, is_encoder_decoder=False, policy=order,
                           async_scheduling=is_async)  # fmt: skip
    cache = CacheConfig(
        block_size=BLOCK, gpu_memory_utilization=0.9, cache_dtype="auto", enable_prefix_caching=events is not None
    )
    config = VllmConfig(scheduler_config=plan, model_config=model, cache_config=cache,
                        parallel_config=ParallelConfig(), device_config=DeviceConfig("cpu"),
                        kv_events_config=events)  # fmt: skip
    config.scheduler_config.async_scheduling = is_async  # the CPU platform switches it off; no model runs here
    cache.num_gpu_blocks = blocks
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    kv = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    kind = (AsyncScheduler if is_async else Scheduler) if which == "stock" else _ours()
    return kind(vllm_config=config, kv_cache_config=kv, structured_output_manager=StructuredOutputManager(config),
                block_size=BLOCK, log_stats=False)  # fmt: skip


def _ours() -> Any:
    from llmservice_serving.vllm_scheduler import SLAI

    return SLAI


def request(name: str, prompt: int, answer: int, tbt_s: float | None) -> Request:
    extra = {"class": "c", "tbt_s": tbt_s} if tbt_s else None
    params = SamplingParams(max_tokens=answer, ignore_eos=True, extra_args=extra)
    params.update_from_generation_config({}, eos_token_id=2)
    return Request(request_id=name, prompt_token_ids=[5] * prompt, sampling_params=params, pooling_params=None)


def result(output: Any, requests: dict[str, Request]) -> ModelRunnerOutput:
    """What a model would return: a token for each request whose known tokens are all computed."""
    ids = list(output.num_scheduled_tokens)
    tokens = [[7] if output.samples[i] else [] for i in ids]
    return ModelRunnerOutput(req_ids=ids, req_id_to_index={r: i for i, r in enumerate(ids)}, sampled_token_ids=tokens)


def drive(which: str, is_async: bool, blocks: int, is_fenced: bool) -> dict[str, Any]:
    """Forty requests arriving over the steps, small KV cache; the model takes 2 ms per step."""
    s = scheduler(which, is_async=is_async, blocks=blocks)
    s.defer_block_free = is_fenced
    requests = {r.request_id: r for r in arrivals()}
    waiting, flight, log = deque(requests.values()), deque[Any](), []
    for step in range(20_000):
        if waiting and step % 3 == 0:
            s.add_request(waiting.popleft())
        if s.has_requests():
            output = s.schedule()
            output.samples = {i: not requests[i].is_prefill_chunk for i in output.num_scheduled_tokens}
            log.append(dict(output.num_scheduled_tokens))
            flight.append(output)
        while flight and (len(flight) > is_async or not s.has_unfinished_requests()):
            time.sleep(0.002)
            landed = flight.popleft()
            s.update_from_output(landed, result(landed, requests))
        if not waiting and not s.has_unfinished_requests() and not flight:
            break
    numbers = s._clock.numbers if which == "ours" else None
    return {
        "class": type(s).__name__,
        "is_async": isinstance(s, AsyncScheduler),
        "lengths": {i: r.num_output_tokens for i, r in requests.items()},
        "wanted": {i: r.max_tokens for i, r in requests.items()},
        "batches": log,
        "preemptions": sum(r.num_preemptions for r in requests.values()),
        "blocks_in_use": blocks - 1 - s.kv_cache_manager.block_pool.get_num_free_blocks(),
        "hidden": numbers.hidden_decodes if numbers else 0,
        "seats_left": len(s._seats) if numbers else 0,
        "fence_left": s.sched_step_seq - s.processed_step_seq + len(s.deferred_frees),
    }


def pause() -> dict[str, Any]:
    """Decodes that could be hidden and a prompt that waits, in an engine that is told to do nothing."""
    s = scheduler("ours", is_async=False, blocks=200)
    requests = {f"r{i}": request(f"r{i}", 20, 50, 0.5) for i in range(4)}
    for r in requests.values():
        s.add_request(r)
    for _ in range(8):
        step(s, requests)
    s.set_pause_state(PauseState.PAUSED_ALL)
    s.add_request(request("late", 300, 5, 0.5))
    s.finish_requests("r0", RequestStatus.FINISHED_ABORTED)
    paused = step(s, requests)
    time.sleep(0.3)
    s.set_pause_state(PauseState.UNPAUSED)
    before = s._clock.numbers.kinds["mixed"].seconds + s._clock.numbers.kinds["decode"].seconds
    requests["late"] = s.requests["late"]
    resumed = step(s, requests)
    after = s._clock.numbers.kinds["mixed"].seconds + s._clock.numbers.kinds["decode"].seconds
    return {"paused": paused, "resumed": resumed, "first_step_s": after - before}


def fallbacks() -> dict[str, Any]:
    """What an engine says, once, when it has something that no plan counts with, and which order it then has."""
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("vllm.llmservice")
    log.addHandler(listener)
    s = scheduler("ours", is_async=False, blocks=200, order="priority")
    plain = {"policy": s.policy, "lora_config": None, "num_spec_tokens": 0, "ec_connector": None,
             "parallel_config": s.parallel_config}  # fmt: skip
    plain["policy"] = SchedulingPolicy.FCFS
    ours = _ours()
    cases = {"plain": {}, "LoRA": {"lora_config": object()}, "speculative decoding": {"num_spec_tokens": 2},
             "an encoder connector": {"ec_connector": object()},
             "pipeline parallelism": {"parallel_config": SimpleNamespace(pipeline_parallel_size=2)}}  # fmt: skip
    seen = {name: ours._not_reasoned_about(SimpleNamespace(**{**plain, **case})) for name, case in cases.items()}
    return {"said": said, "has_driver": s.driver is not None, "queue": type(s.waiting).__name__, "cases": seen}


def step(s: Any, requests: dict[str, Request]) -> int:
    output = s.schedule()
    output.samples = {i: not requests[i].is_prefill_chunk for i in output.num_scheduled_tokens}
    s.update_from_output(output, result(output, requests))
    return int(output.total_num_scheduled_tokens)


def _drive(which: str, policy: str, timing: str, blocks: str) -> dict[str, Any]:
    os.environ["LLMSERVICE_POLICY"] = policy
    return drive(which, timing != "sync", int(blocks), timing == "fenced")


def arrivals() -> Iterator[Request]:
    for i in range(40):
        yield request(f"r{i}", 20 + 53 * i % 400, 5 + 11 * i % 60, (None, 0.5, 0.05, 0.5)[i % 4])


class Loop:
    """One scheduler without a model, full of decodes that never end, and prompts of one token's answer that stream
    through the one seat that is left. With prompts, targets that nobody can meet: no decode may wait, so that each step
    is as full as stock's."""

    def __init__(self, which: str, policy: str, running: int, waiting: int) -> None:
        os.environ["LLMSERVICE_POLICY"] = policy
        seats = running + (1 if waiting else 0)
        self.s = scheduler(which, is_async=False, blocks=70_000, seqs=seats, budget=running + 256)
        if getattr(self.s, "driver", None):
            self.s.driver.times._paced = step_model("rtx4090-mistral-7b").work_s
        tbt_s = 1e-4 if waiting else 0.5
        self.requests = {f"r{i}": request(f"r{i}", 4, 1900, tbt_s) for i in range(running)}
        for r in self.requests.values():
            self.s.add_request(r)
        for _ in range(10):
            self.step()
        for i in range(waiting):
            self.requests[f"w{i}"] = request(f"w{i}", 100 + i % 700, 1, 1e-4)
            self.s.add_request(self.requests[f"w{i}"])

    def step(self) -> float:
        """CPU seconds of schedule() and update_from_output(), nothing else."""
        began = time.thread_time()
        output = self.s.schedule()
        between = time.thread_time()
        output.samples = {i: not self.requests[i].is_prefill_chunk for i in output.num_scheduled_tokens}
        answer = result(output, self.requests)
        resumed = time.thread_time()
        self.s.update_from_output(output, answer)
        return between - began + time.thread_time() - resumed


def cost(running: int, waiting: int, kinds: list[str]) -> dict[str, float]:
    """Microseconds of CPU per step of each kind, the median over rounds taken in turn: what else the machine does falls
    on all alike."""
    loops = {kind: Loop(*kind.split(","), running, waiting) for kind in kinds}
    rounds: dict[str, list[float]] = {kind: [] for kind in kinds}
    gc.collect()
    gc.freeze()  # as vLLM's engine does
    for _ in range(COST_ROUNDS):
        for kind, loop in loops.items():
            rounds[kind].append(sum(loop.step() for _ in range(COST_STEPS)) / COST_STEPS)
    return {kind: median(seconds) * 1e6 for kind, seconds in rounds.items()}


def main(arguments: list[str]) -> Any:
    match arguments:
        case ["signatures"]:
            return signatures()
        case ["drive", *runs]:
            return [_drive(*run.split(",")) for run in runs]
        case ["fallbacks"]:
            return fallbacks()
        case ["pause"]:
            return pause()
        case ["cost", running, waiting, *kinds]:
            return cost(int(running), int(waiting), kinds)
    raise SystemExit(__doc__)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
