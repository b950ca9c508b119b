"""What a simulated run was like: promises kept per class, GPU time, sizes over time, decisions with their reasons."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from llmservice_core.model import Plan, Pool, ServiceClass
from llmservice_sim.fleet_requests import Outcome, Request
from llmservice_sim.summary import percentile


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassResult:
    """Shares are of events and None without any: TTFT over requests that were not refused, a failed or shed one being
    a miss unless its first token came in time; TBT over single token gaps as they left the engines. Seconds."""

    name: str
    requests: int
    outcomes: Mapping[Outcome, int]
    ttft_share: float | None
    tbt_share: float | None
    good_share: float | None
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    ttft_p99_s: float | None
    tbt_p50_s: float | None
    tbt_p99_s: float | None
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The service at one decision."""

    time_s: float
    arrivals_rps: float
    waiting_prompt_tokens: int
    decodes: int
    desired: Mapping[Pool, int]
    ready: Mapping[Pool, int]
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A change of sizes."""

    time_s: float
    before: Mapping[Pool, int]
    after: Mapping[Pool, int]
    reason: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetResult:
    """`end_s`: when the last request ended; GPU time is counted until then."""

    law: str
    policy: str
    end_s: float
    steps: int
    gpu_hours: Mapping[Pool, float]
    classes: Sequence[ClassResult]
    moments: Sequence[Moment]
    decisions: Sequence[Decision]
    last_plan: Plan | None
    requests: Sequence[Request]
    gaps_s: Mapping[str, array[float]] = field(default_factory=dict)

    @property
    def total_gpu_hours(self) -> float:
        return sum(self.gpu_hours.values())


def class_result(c: ServiceClass, requests: Iterable[Request], gaps_s: Sequence[float]) -> ClassResult:
    own = [r for r in requests if r.service_class.name == c.name]
    outcomes = {o: sum(r.outcome is o for r in own) for o in Outcome}
    judged = [r for r in own if r.outcome is not Outcome.REFUSED]
    ttfts = sorted(t for r in judged if (t := r.ttft_s) is not None)
    gaps = sorted(gaps_s)
    events, late = sum(r.gaps for r in own), sum(r.late_gaps for r in own)
    return ClassResult(
        name=c.name,
        requests=len(own),
        outcomes={o: n for o, n in outcomes.items() if n},
        ttft_share=sum(r.is_ttft_met for r in judged) / len(judged) if judged else None,
        tbt_share=(events - late) / events if events else None,
        good_share=sum(r.is_good for r in judged) / len(judged) if judged else None,
        ttft_p50_s=percentile(ttfts, 0.50),
        ttft_p95_s=percentile(ttfts, 0.95),
        ttft_p99_s=percentile(ttfts, 0.99),
        tbt_p50_s=percentile(gaps, 0.50),
        tbt_p99_s=percentile(gaps, 0.99),
        tokens=sum(r.tokens for r in own),
    )
