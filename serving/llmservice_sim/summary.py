"""What a run was like for the users: latencies per class, as percentiles over requests and over single gaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmservice_sim.jobs import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Seconds. TTFT over requests whose first token came, TBT over all gaps of all of them; None without any."""

    requests: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    ttft_p99_s: float | None
    tbt_p99_s: float | None


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of all values do not exceed; `values` sorted."""
    if not values:
        return None
    at = -(-len(values) * share // 1)
    return values[max(0, int(at) - 1)]


def figures(jobs: Iterable[Job]) -> Figures:
    counted = list(jobs)
    ttfts = sorted(job.ttft_seen_s for job in counted if job.ttft_seen_s is not None)
    gaps = sorted(gap for job in counted for gap in job.gaps_s)
    return Figures(
        requests=len(counted),
        ttft_p50_s=percentile(ttfts, 0.50),
        ttft_p95_s=percentile(ttfts, 0.95),
        ttft_p99_s=percentile(ttfts, 0.99),
        tbt_p99_s=percentile(gaps, 0.99),
    )
