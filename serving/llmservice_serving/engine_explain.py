"""The present decision of an engine with each request's slack, for people: a table of plain values. No vLLM."""

from __future__ import annotations

import math
import time
from typing import Any

from llmservice_core.policy_plus import Plus
from llmservice_core.steps import StepPlan
from llmservice_serving.engine_seats import Seat


def explain(scheduler: Any) -> dict[str, Any]:
    """Called from the exporter's thread: copies first. Times in seconds, unknown is None."""
    now_s, driver = time.monotonic(), scheduler.driver
    plan: StepPlan | None = driver.plan if driver else None
    policy = driver.policy if driver else None
    believed = driver.times.believed if driver else None
    return {
        "policy": policy.name if policy else "fcfs",
        "step_times": "unknown" if believed is None else driver.times.source,
        "steps_last_times_the_model": policy.pace.ratio if isinstance(policy, Plus) and believed else None,
        "last_step_s": scheduler._clock.last_s,
        "kv_usage": scheduler.kv_cache_manager.usage,
        "plan": _plan(plan),
        "requests": [_request(seat, _place(seat, plan), now_s) for seat in _seats(scheduler)],
    }


def _seats(scheduler: Any) -> list[Seat]:
    """A dict that another thread changes may say so while it is copied."""
    while True:
        try:
            return sorted(scheduler._seats.by_id.values(), key=lambda s: (not s.is_started, s.serial))
        except RuntimeError:
            continue


def _plan(plan: StepPlan | None) -> dict[str, Any] | None:
    if plan is None:
        return None
    return {
        "mode": plan.mode.value,
        "decodes": len(plan.serve),
        "decodes_with_what_is_left": len(plan.later),
        "decodes_that_wait": len(plan.waits),
        "chunks": [chunk.tokens for chunk in plan.chunks],
        "budget_tokens": plan.budget_tokens,
        "predicted_s": plan.predicted_s,
        "slack_s": plan.slack_s if math.isfinite(plan.slack_s) else None,
    }


def _place(seat: Seat, plan: StepPlan | None) -> str:
    """What the last plan did with it."""
    if not seat.is_started:
        return "queued"
    if plan is None:
        return "runs"
    for place, tasks in (("runs", plan.serve), ("if budget is left", plan.later), ("waits", plan.waits)):
        if any(task is seat for task in tasks):
            return place
    return "prefill" if any(chunk.task is seat for chunk in plan.chunks) else "paused" if not seat.produced else "runs"


def _request(seat: Seat, place: str, now_s: float) -> dict[str, Any]:
    since_s = None if seat.last_token_s is None else now_s - seat.last_token_s
    age_s = now_s - seat.arrival_s
    if seat.last_token_s is None:
        slack_s = None if seat.ttft_s is None else seat.ttft_s - age_s
    else:
        slack_s = None if seat.tbt_s is None or since_s is None else seat.tbt_s - since_s
    return {
        "id": seat.request.request_id,
        "class": seat.service_class,
        "place": place,
        "prompt_tokens": seat.prompt_tokens,
        "computed_tokens": seat.request.num_computed_tokens,
        "produced_tokens": seat.produced,
        "age_s": age_s,
        "since_last_token_s": since_s,
        "ttft_s": seat.ttft_s,
        "tbt_s": seat.tbt_s,
        "slack_s": slack_s,
        "steps_sat_out": seat.sat_out,
    }
