"""How far arrivals come together: the index of dispersion of their counts, from what scrapes kept. Pure; no names.

I = variance / mean of the count between two scrapes; 1 when arrivals are Poisson, whatever their rate. From successive
differences, E[(n' - n)^2] / E[n' + n] (von Neumann 1941), so that a rate that changes slowly does not count.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Final, NamedTuple

from llmservice_core.samples import Series, base_index, grown

LEAST_PAIRS: Final = 15
"""Fewer differences say nothing: the standard error of I is sqrt(3 / pairs + 1 / events) of it for Poisson counts."""
ALIKE: Final = 0.2
"""Counts over lengths of time that differ by more are not compared: a scrape failed between them."""


class Sums(NamedTuple):
    """Over the pairs of neighbouring counts of one process."""

    squares: float
    events: float
    pairs: int


def dispersion(series: Iterable[Series], since_s: float) -> float | None:
    """Of all these counters together, less one standard error: few arrivals scatter, too, and a pod is dear.

    None before there are enough scrapes and events. Processes are scraped at different moments and see a share of the
    arrivals each, at random: of r equal shares, I - 1 = r (I_share - 1). Counters of one process, by labels pod and
    instance, are added up.
    """
    found = [_sums(own, since_s) for own in _by_process(series)]
    pairs, events = max((s.pairs for s in found), default=0), sum(s.events for s in found)
    if pairs < LEAST_PAIRS or events <= 0.0:
        return None
    shares = events**2 / sum(s.events**2 for s in found)
    of_share = sum(s.squares for s in found) / events
    error = math.sqrt(3.0 / (pairs * shares) + 1.0 / events)
    return max(1.0, 1.0 + shares * (of_share * (1.0 - error) - 1.0))


def _by_process(series: Iterable[Series]) -> Iterable[list[Series]]:
    found: Mapping[tuple[str, str], list[Series]] = defaultdict(list)
    for s in series:
        found[(s.labels.get("pod", ""), s.labels.get("instance", ""))].append(s)
    return found.values()


def _sums(series: Iterable[Series], since_s: float) -> Sums:
    counts: dict[tuple[float, float], float] = defaultdict(float)
    for s in series:
        first = base_index(s, since_s)
        for (begin, a), (end, b) in pairwise(zip(s.times[first:], s.values[first:], strict=True)):
            counts[(begin, end)] += grown(a, b)
    squares, events, pairs = 0.0, 0.0, 0
    for ((begin, middle), before), ((start, end), after) in pairwise(sorted(counts.items())):
        spans = (middle - begin, end - start)
        if start == middle and max(spans) - min(spans) <= ALIKE * max(spans):
            squares, events, pairs = squares + (after - before) ** 2, events + before + after, pairs + 1
    return Sums(squares, events, pairs)
