"""A run as plain data: what --json prints and what the page is drawn from. The same run gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmservice_core.model import Goal, Pool
from llmservice_sim.fleet_result import ClassResult, Decision, FleetResult, Moment
from llmservice_sim.summary import percentile

MOST_POINTS = 120
"""Of a distribution, as equally likely quantiles with a finer tail."""
TAIL = (0.99, 0.995, 0.999, 1.0)


def as_data(goal: Goal, result: FleetResult) -> dict[str, Any]:
    targets = {c.name: c for c in goal.classes}
    return {
        "law": result.law,
        "policy": result.policy,
        "seconds": _short(result.end_s),
        "engine_steps": result.steps,
        "gpu_hours": {**_by_pool(result.gpu_hours), "total": _short(result.total_gpu_hours)},
        "classes": [
            {
                **_class(c),
                "ttft_target_s": targets[c.name].ttft.target_s,
                "ttft_percentile": targets[c.name].ttft.percentile,
                "tbt_target_s": targets[c.name].tbt.target_s,
                "tbt_percentile": targets[c.name].tbt.percentile,
                "ttft_quantiles_s": quantiles(
                    sorted(t for r in result.requests if r.service_class.name == c.name and (t := r.ttft_s) is not None)
                ),
                "tbt_quantiles_s": quantiles(sorted(result.gaps_s.get(c.name, ()))),
            }
            for c in result.classes
        ],
        "decisions": [_decision(d) for d in result.decisions],
        "moments": [_moment(m) for m in result.moments],
    }


def quantiles(values: Sequence[float]) -> list[tuple[float, float]]:
    """(share, value) of sorted values; empty without any."""
    if not values:
        return []
    shares = sorted([i / MOST_POINTS for i in range(1, MOST_POINTS)] + list(TAIL))
    return [(round(s, 4), _short(v)) for s in shares if (v := percentile(values, s)) is not None]


def _class(c: ClassResult) -> dict[str, Any]:
    return {
        "name": c.name,
        "requests": c.requests,
        "outcomes": {str(outcome): n for outcome, n in c.outcomes.items()},
        "output_tokens": c.tokens,
        "ttft_attainment": _percent(c.ttft_share),
        "tbt_attainment": _percent(c.tbt_share),
        "good_requests": _percent(c.good_share),
        "ttft_p50_s": _known(c.ttft_p50_s),
        "ttft_p95_s": _known(c.ttft_p95_s),
        "ttft_p99_s": _known(c.ttft_p99_s),
        "tbt_p50_s": _known(c.tbt_p50_s),
        "tbt_p99_s": _known(c.tbt_p99_s),
    }


def _decision(d: Decision) -> dict[str, Any]:
    return {
        "time_s": _short(d.time_s),
        "from": _by_pool(d.before),
        "to": _by_pool(d.after),
        "reason": d.reason,
        "why": d.why,
    }


def _moment(m: Moment) -> dict[str, Any]:
    return {
        "time_s": _short(m.time_s),
        "arrivals_rps": _short(m.arrivals_rps),
        "waiting_prompt_tokens": m.waiting_prompt_tokens,
        "decodes": m.decodes,
        "desired": _by_pool(m.desired),
        "ready": _by_pool(m.ready),
        "gpus": m.gpus,
    }


def _by_pool(numbers: Mapping[Pool, float]) -> dict[str, float]:
    return {pool.value: _short(number) for pool, number in numbers.items()}


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 3)


def _known(value: float | None) -> float | None:
    return None if value is None else _short(value)


def _short(value: float) -> float:
    """Six figures."""
    return value if isinstance(value, int) else float(f"{value:.6g}")
