"""The scheduler class without a model, in vLLM's own process environment: with async scheduling and without.

Forty requests of both classes arrive over the steps; the KV cache is too small for them, so some are pre-empted.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.serving.engine_room import require_engine_environment, run_inside

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]
SCRIPT = Path(__file__).with_name("engine_drive.py")
RUNS = (
    "stock,fcfs,sync,120",
    "ours,fcfs,sync,120",
    "ours,slai,sync,120",
    "ours,slai,async,120",
    "ours,slai,sync,4000",
    "ours,slai,fenced,120",
    "ours,slai-plus,sync,120",
    "ours,slai-plus,async,120",
    "ours,slai-plus,fenced,120",
    "ours,slai-plus,sync,4000",
    *(f"ours,{policy},async,120" for policy in ("sarathi", "rad", "vtc", "edf", "mlfq", "sjf")),
)
SLAI_RUNS = tuple(run for run in RUNS if "slai" in run)
BUDGET = 128
OVERRIDDEN = {
    "add_request": ["self", "request"],
    "_free_request": ["self", "request", "delay_free_blocks=False"],
    "_free_blocks": ["self", "request"],
    "schedule": ["self", "throttle_prefills=False"],
    "set_pause_state": ["self", "pause_state"],
    "_make_cached_request_data": [
        "self", "running_reqs", "resumed_reqs", "num_scheduled_tokens", "spec_decode_tokens", "req_to_new_blocks",
    ],
    "_build_kv_connector_meta": ["self", "connector", "scheduler_output"],
    "_update_after_schedule": ["self", "scheduler_output"],
    "update_from_output": ["self", "scheduler_output", "model_runner_output"],
}  # fmt: skip
"""All that we override, with the parameters that both have."""


@pytest.fixture(scope="module")
def driven() -> dict[str, dict[str, Any]]:
    require_engine_environment()
    return dict(zip(RUNS, run_inside(SCRIPT, "drive", *RUNS), strict=True))


def test_what_we_override_still_has_the_parameters_that_vllm_gives_it() -> None:
    require_engine_environment()
    found = run_inside(SCRIPT, "signatures")
    assert {name: both["ours"] for name, both in found.items()} == OVERRIDDEN
    assert {name: both["vllm"] for name, both in found.items()} == OVERRIDDEN


@pytest.mark.parametrize("run", RUNS)
def test_every_request_gets_every_token_and_leaves_nothing_behind(driven: dict[str, Any], run: str) -> None:
    seen = driven[run]
    assert seen["lengths"] == seen["wanted"]
    assert max(sum(batch.values()) for batch in seen["batches"]) <= BUDGET
    assert seen["blocks_in_use"] == 0
    assert seen["seats_left"] == 0
    assert "fenced" not in run or seen["fence_left"] == 0, "every step that was announced has been seen to end"


def test_one_public_name_gives_the_variant_that_is_configured(driven: dict[str, Any]) -> None:
    assert [driven[run]["is_async"] for run in RUNS] == ["sync" not in run.split(",") for run in RUNS]


def test_a_paused_engine_computes_nothing_and_the_pause_is_no_steps_time() -> None:
    require_engine_environment()
    seen = run_inside(SCRIPT, "pause")
    assert seen["paused"] == 0
    assert seen["resumed"] > 0
    assert seen["first_step_s"] < 0.2


def test_what_no_plan_counts_with_falls_back_to_vllms_order_with_one_line() -> None:
    require_engine_environment()
    seen = run_inside(SCRIPT, "fallbacks")
    (line,) = [text for text in seen["said"] if "is not used" in text]
    assert line == (
        "policy slai-plus is not used: this engine has --scheduling-policy priority; vLLM's own order holds"
    )
    assert (seen["has_driver"], seen["queue"]) == (False, "PriorityRequestQueue")
    assert seen["cases"] == {name: None if name == "plain" else name for name in seen["cases"]}
    assert len(seen["cases"]) == 5


def test_policy_fcfs_schedules_the_same_batches_as_stock(driven: dict[str, Any]) -> None:
    assert driven["ours,fcfs,sync,120"]["batches"] == driven["stock,fcfs,sync,120"]["batches"]


@pytest.mark.parametrize("run", SLAI_RUNS)
def test_slai_defers_decodes_and_never_stalls(driven: dict[str, Any], run: str) -> None:
    """Two steps with nothing in them in a row would be a stall; without the guard the engine would stay there."""
    seen = driven[run]
    assert seen["hidden"] > 100
    empty = [not batch for batch in seen["batches"]]
    assert not any(a and b for a, b in pairwise(empty))


def test_a_cache_too_small_costs_no_more_preemptions_than_stock(driven: dict[str, Any]) -> None:
    assert driven["stock,fcfs,sync,120"]["preemptions"] > 0, "no pressure: proves nothing"
    assert driven["ours,slai,sync,120"]["preemptions"] <= driven["stock,fcfs,sync,120"]["preemptions"]


def test_prompts_are_admitted_strict_first_then_shortest(driven: dict[str, Any]) -> None:
    """Of those that waited together at the end of the arrivals: classes in order, lengths rising within a class."""
    batches = driven["ours,slai,sync,120"]["batches"]
    order = [int(name[1:]) for name in dict.fromkeys(name for batch in batches for name in batch)]
    last = order[-8:]
    strictness = {0: 2, 1: 1, 2: 0, 3: 1}  # no target, 0.5 s, 0.05 s, 0.5 s
    keys = [(strictness[i % 4], 20 + 53 * i % 400) for i in last]
    assert keys == sorted(keys)


def test_kv_events_tell_a_listener_after_each_step_what_the_prefix_cache_holds() -> None:
    require_engine_environment()
    kinds = ("stock,fcfs", "ours,fcfs", "ours,slai", "ours,slai-plus")
    for kind, seen in zip(kinds, run_inside(SCRIPT.with_name("engine_kv_events.py"), *kinds), strict=True):
        assert seen["lengths"] == seen["wanted"], kind
        assert seen["wrong_steps"] == 0, kind
        assert seen["stored"] > seen["removed"] > 0, kind
        assert seen["preemptions"] > 0, kind
        assert kind != "ours,slai" or seen["hidden"] > 0
