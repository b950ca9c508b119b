"""Counters of many equal steps at once: the sums that capacity is learned from, and token gaps by class."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence

from llmservice_core.model import ServiceClass
from llmservice_core.step_sums import PAIRS, KindSums
from llmservice_sim.fleet_counters import EngineCounters
from llmservice_sim.fleet_requests import Part
from llmservice_sim.fleet_settings import TILE_TOKENS

BINS_PER_E = 200
"""Gaps are kept in bins of half a per cent."""
MOST_PARTS = 8
POINTS = 4000
DECODES_AT, KV_AT = 4, 5
"""Of metric_names.FEATURES."""


def add_run(sums: KindSums, n: int, kv: int, steps: int, a: float, c: float, extra_s: float) -> None:
    """`steps` decode steps of n sequences that hold `kv` tokens before the first one; each lasts a + c KV."""
    x = (1.0, float(math.ceil(n / TILE_TOKENS)), n / 1e3, 0.0, float(n))
    first = kv + n
    total = steps * first + n * steps * (steps - 1) / 2
    squares = steps * first**2 + first * n * steps * (steps - 1) + n * n * (steps - 1) * steps * (2 * steps - 1) / 6
    seconds = steps * a + c * total + extra_s
    sums.steps += steps
    sums.seconds += seconds
    for at, (i, j) in enumerate(PAIRS):
        if j == KV_AT:
            sums.xx[at] += squares / 1e6 if i == KV_AT else x[i] * total / 1e3
        else:
            sums.xx[at] += steps * x[i] * x[j]
    for i, value in enumerate(x):
        sums.xy[i] += value * seconds
    sums.xy[KV_AT] += (a * total + c * squares + extra_s * first) / 1e3


class GapHistogram:
    """Token gaps of each class, as counts."""

    def __init__(self, classes: Sequence[ServiceClass]) -> None:
        self._bins: dict[str, Counter[int]] = {c.name: Counter() for c in classes}

    def add(self, class_name: str, gap_s: float, count: int) -> None:
        self._bins[class_name][round(BINS_PER_E * math.log(gap_s))] += count

    def points(self) -> Mapping[str, array[float]]:
        """A few thousand equally likely gaps of each class, in order of length."""
        return {name: _points(bins) for name, bins in self._bins.items()}


def _points(bins: Counter[int]) -> array[float]:
    total, found, seen = sum(bins.values()), array("d"), 0
    for at, count in sorted(bins.items()):
        seen += count
        most = math.ceil(POINTS * seen / total)
        found.extend([math.exp(at / BINS_PER_E)] * (most - len(found)))
    return found


class GapCounts:
    """Who is in one engine's batch, and what steps of it mean for the counters that its pool shares."""

    def __init__(self, classes: Sequence[ServiceClass], counters: EngineCounters, histogram: GapHistogram) -> None:
        self._targets = {c.name: c.tbt.target_s for c in classes}
        self.targets_s = tuple(sorted({c.tbt.target_s for c in classes}))
        self._counters, self._histogram = counters, histogram
        self._members = dict.fromkeys(self._targets, 0)

    @property
    def tightest_s(self) -> float:
        """Of the TBT targets of those in the batch; infinite without any."""
        return min((self._targets[name] for name, count in self._members.items() if count), default=math.inf)

    def joined(self, part: Part) -> None:
        self._members[part.request.service_class.name] += 1

    def left(self, part: Part) -> None:
        self._members[part.request.service_class.name] -= 1

    def add(
        self, steps: int, first_s: float, more_s: float, extra_s: float, fresh: Sequence[Part]
    ) -> tuple[list[int], list[bool]]:
        """Steps of first_s, first_s + more_s, ...; the first one by `extra_s` longer. Late ones and whether the first
        is, for each target. To the `fresh` the first step brings their first token, which is no gap."""
        news = Counter(p.request.service_class.name for p in fresh if not p.preemptions)
        late = [_late(steps, first_s, more_s, extra_s, target_s) for target_s in self.targets_s]
        first = [first_s + extra_s > target_s for target_s in self.targets_s]
        for name, members in self._members.items():
            if members:
                at = self.targets_s.index(self._targets[name])
                self._count(name, members, news[name], steps, late[at], first[at])
                self._draw(name, members * steps - news[name], steps, first_s, more_s)
        return late, first

    def _count(self, name: str, members: int, new: int, steps: int, late: int, is_first_late: bool) -> None:
        pair, events = self._counters.gaps[name], members * steps - new
        pair[0] += events
        pair[1] += events - (members * late - new * is_first_late)

    def _draw(self, name: str, events: int, steps: int, first_s: float, more_s: float) -> None:
        """Into the histogram, in parts that are each about equally long."""
        parts = min(MOST_PARTS, steps, 1 + int(BINS_PER_E * more_s * steps / first_s))
        given = 0
        for part in range(parts):
            until = events * (part + 1) // parts
            if until > given:
                self._histogram.add(name, first_s + more_s * (steps - 1) * (part + 0.5) / parts, until - given)
            given = until


def _late(steps: int, first_s: float, more_s: float, extra_s: float, target_s: float) -> int:
    if first_s > target_s:
        return steps
    in_time = steps if more_s <= 0 else min(steps, math.floor((target_s - first_s) / more_s) + 1)
    return steps - in_time + (in_time > 0 and first_s + extra_s > target_s)
