"""Samples as a scrape keeps them, and sums over them: increases across restarts, means, liveness. Pure; no names.

Not PromQL's increase(): its extrapolation scales each series differently, which breaks sums that belong together.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from statistics import median

DEFAULT_GAP_S = 15.0
GAPS = 8
"""The scrape gap is that of the last so many: few enough to be in every range that is asked for."""
LIVE_GAPS = 2.5
"""A series whose last sample is older than so many scrape gaps belongs to a pod that is gone."""
GRACE_GAPS = 3.0
LEAST_GRACE_S = 10.0
"""A pod that is Ready for so many scrape gaps, or so long, should have a sample: Prometheus takes up new targets within
5 s and scrapes them within a gap, and one scrape may fail."""
RECENT_PODS = 20
"""Start-up times of the newest so many pods count: an old image or node says little about the next pod."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series of a range vector: samples in time order, NaN and infinities left out."""

    name: str
    labels: Mapping[str, str]
    times: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How far back each number looks. All grow with the scrape gap, so that each window holds enough samples."""

    recent_s: float
    """Shows a jump of arrivals: two scrapes."""
    rate_s: float
    """Arrivals and attainment."""
    full_s: float
    """Means of few requests, and the step statistics: 40 scrapes, at most 10 minutes."""

    @property
    def lengths_s(self) -> tuple[float, float, float]:
        """Windows for mean lengths: the shortest one with enough requests counts."""
        return (3.0 * self.recent_s, self.rate_s, self.full_s)


def windows(gap_s: float | None) -> Windows:
    gap = gap_s or DEFAULT_GAP_S
    rate = max(60.0, 4.0 * gap)
    return Windows(recent_s=max(10.0, 2.0 * gap), rate_s=rate, full_s=min(600.0, max(2.0 * rate, 40.0 * gap)))


def scrape_gap_s(series: Sequence[Series]) -> float | None:
    """Median distance between the last samples of the longest series."""
    longest = max(series, key=lambda s: len(s.times), default=None)
    if longest is None or len(longest.times) < 2:
        return None
    return median(b - a for a, b in pairwise(longest.times[-GAPS - 1 :]))


def range_s(gap_s: float | None) -> float:
    """How far back to ask, so that the longest window is whole although the newest sample is a scrape or two old."""
    return windows(gap_s).full_s + 2.0 * (gap_s or DEFAULT_GAP_S)


def until(series: Iterable[Series], newest_s: float) -> list[Series]:
    """Without later samples."""
    kept = [(s, bisect_right(s.times, newest_s)) for s in series]
    return [replace(s, times=s.times[:end], values=s.values[:end]) for s, end in kept if end > 0]


def base_index(series: Series, since_s: float) -> int:
    """The sample that differences start from: the last one at or before `since_s`, else the first."""
    return max(0, bisect_right(series.times, since_s) - 1)


def grown(before: float, after: float) -> float:
    """How much a counter grew between two samples; after a restart it has grown by its new value."""
    return after - before if after >= before else after


def increase(series: Series, since_s: float) -> float:
    """How much a counter grew since."""
    values = series.values[base_index(series, since_s) :]
    return sum(grown(a, b) for a, b in pairwise(values))


def covered_s(series: Iterable[Series], since_s: float) -> float:
    """Time between the first and last sample that the increases of these series rest on, all series together."""
    spans = [(s.times[base_index(s, since_s)], s.times[-1]) for s in series if s.times[-1] > since_s]
    return max((end for _, end in spans), default=0.0) - min((start for start, _ in spans), default=0.0)


def live(series: Iterable[Series], newest: float, gap_s: float | None) -> list[Series]:
    """Those that were scraped lately: the others are history of pods that are gone."""
    oldest = newest - LIVE_GAPS * (gap_s or DEFAULT_GAP_S)
    return [s for s in series if s.times[-1] >= oldest]


def unscraped(ready_since_s: Iterable[float], alive: Iterable[Series], newest_s: float, gap_s: float | None) -> int:
    """How many pods that were Ready in good time no live series speaks for. By number: not all scrapes name the pod."""
    grace_s = max(LEAST_GRACE_S, GRACE_GAPS * (gap_s or DEFAULT_GAP_S))
    expected = sum(newest_s - since_s > grace_s for since_s in ready_since_s)
    scraped = {(s.labels.get("pod", ""), s.labels.get("instance", "")) for s in alive}
    return max(0, expected - len(scraped))


def p90_start_up_s(pods: Iterable[tuple[float, float]]) -> float | None:
    """p90 of the start-up seconds of the newest pods, given as (created, seconds); None before the first."""
    recent = sorted(seconds for _, seconds in sorted(pods)[-RECENT_PODS:])
    return recent[ceil(0.9 * len(recent)) - 1] if recent else None


def mean_since(series: Series, since_s: float) -> float:
    """Mean of a gauge's samples after `since_s`; of its last one if none is younger."""
    values = series.values[min(bisect_right(series.times, since_s), len(series.values) - 1) :]
    return sum(values) / len(values)
