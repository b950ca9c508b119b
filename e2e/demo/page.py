"""The demo's own run as the simulator's report draws runs. Renders what was watched; reads nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from e2e.demo.paced import Watch
from e2e.demo.reaction import seconds
from e2e.load import Sample
from e2e.report import Served, gaps_of, run_of
from e2e.scaling.record import portable
from llmservice_api.resource import parse
from llmservice_sim.report import page


def html(manifest: Mapping[str, Any], watch: Watch, samples: Sequence[Sample]) -> str:
    """Times from the first request's phase on."""
    service = parse(portable(manifest))
    zero_s, classes = watch.timeline[0].time_s, service.to_goal().classes
    moments = [replace(m, time_s=m.time_s - zero_s) for m in watch.timeline]
    requests = [
        Served(time_s=s.sent_s - zero_s, service_class=s.service_class, ttft_s=s.ttft_s, is_whole=s.error is None)
        for s in samples
    ]
    gaps = {c.name: gaps_of([s for s in samples if s.service_class == c.name], c.tbt.target_s) for c in classes}
    decisions = [_decision(change, zero_s) for _, change in sorted(watch.history.items())]
    run = run_of(moments, requests, classes, gaps, decisions, service.spec.engine.scheduler.policy)
    facts = (
        f"Recorded on kind: {len(samples)} requests in {moments[-1].time_s:.0f} s. Paced: real vLLM engines, GPU step"
        " times replayed on CPU. Gaps are between chunks, as the client saw them."
    )
    return page(f"{watch.name}: pools that follow the load", facts, [run])


def _decision(told: Mapping[str, Any], zero_s: float) -> dict[str, Any]:
    return {
        "time_s": round(seconds(told["time"]) - zero_s, 1),
        "from": told["from"],
        "to": {**told["from"], **told["to"]},
        "reason": told["reason"],
        "why": told["message"],
    }
