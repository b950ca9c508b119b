"""A run on the cluster as the simulator's own report knows one, so that both have the same page. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from e2e.demo.story import Moment
from e2e.load import Sample
from llmservice_core.model import ServiceClass
from llmservice_sim.report_data import quantiles
from llmservice_sim.summary import percentile

POINT_S = 5.0
"""One point of the plots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """Chunk gaps of one class as clients saw them: how many were in time, and their quantiles in seconds."""

    in_time: float | None
    quantiles_s: Sequence[tuple[float, float]]


def gaps_of(samples: Sequence[Sample], target_s: float) -> Gaps:
    found = sorted(gap for s in samples for gap in s.gaps_s)
    in_time = sum(gap <= target_s for gap in found) / len(found) if found else None
    return Gaps(in_time=in_time, quantiles_s=quantiles(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One request: when it was sent, its TTFT (None: no token came) and whether its answer came whole."""

    time_s: float
    service_class: str
    ttft_s: float | None
    is_whole: bool


def run_of(
    moments: Sequence[Moment],
    requests: Sequence[Served],
    classes: Sequence[ServiceClass],
    gaps: Mapping[str, Gaps],
    decisions: Sequence[Mapping[str, Any]],
    policy: str,
) -> dict[str, Any]:
    """All times from the same zero. Good requests and decodes under way are not known outside: None."""
    hours = gpu_hours(moments)
    return {
        "law": "recorded",
        "policy": policy,
        "seconds": round(moments[-1].time_s, 1),
        "gpu_hours": {**hours, "total": round(sum(hours.values()), 5)},
        "classes": [_class(c, [r for r in requests if r.service_class == c.name], gaps[c.name]) for c in classes],
        "decisions": list(decisions),
        "moments": _points(moments, requests),
    }


def gpu_hours(moments: Sequence[Moment]) -> dict[str, float]:
    """Of the pods that existed, each pool's; one GPU a pod, as all services of e2e have."""
    used = dict.fromkeys(moments[0].desired, 0.0)
    for now, after in pairwise(moments):
        for pool in used:
            used[pool] += now.held.get(pool, 0) * (after.time_s - now.time_s) / 3600
    return {pool: round(hours, 5) for pool, hours in used.items()}


def _points(moments: Sequence[Moment], requests: Sequence[Served]) -> list[dict[str, Any]]:
    points, next_s = [], moments[0].time_s
    for m in moments:
        if m.time_s < next_s:
            continue
        next_s = m.time_s + POINT_S
        came = sum(m.time_s - POINT_S < r.time_s <= m.time_s for r in requests)
        points.append(
            {
                "time_s": round(m.time_s, 1),
                "arrivals_rps": came / POINT_S,
                "waiting_prompt_tokens": m.waiting_tokens or 0,
                "desired": dict(m.desired),
                "ready": dict(m.ready),
                "gpus": sum(m.held.values()),
            }
        )
    return points


def _class(c: ServiceClass, requests: Sequence[Served], gaps: Gaps) -> dict[str, Any]:
    ttfts = sorted(r.ttft_s for r in requests if r.ttft_s is not None)
    good = sum(r.is_whole and r.ttft_s is not None and r.ttft_s <= c.ttft.target_s for r in requests)
    shares = dict(gaps.quantiles_s)
    return {
        "name": c.name,
        "requests": len(requests),
        "ttft_attainment": round(100 * good / len(requests), 3) if requests else None,
        "tbt_attainment": None if gaps.in_time is None else round(100 * gaps.in_time, 3),
        "good_requests": None,
        **{f"ttft_p{p}_s": percentile(ttfts, p / 100) for p in (50, 95, 99)},
        "tbt_p50_s": shares.get(0.5),
        "tbt_p99_s": shares.get(0.99),
        "ttft_target_s": c.ttft.target_s,
        "ttft_percentile": c.ttft.percentile,
        "tbt_target_s": c.tbt.target_s,
        "tbt_percentile": c.tbt.percentile,
        "ttft_quantiles_s": quantiles(ttfts),
        "tbt_quantiles_s": list(gaps.quantiles_s),
    }
