"""A histogram for each token: two additions a call, made into Prometheus' shape when that is asked for.

prometheus_client's own takes locks and walks its buckets in each call, a sixth of the router's work per token. There is
one event loop, so no lock.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString


class Times:
    """Of one set of labels."""

    __slots__ = ("_bounds", "counts", "sum_s")

    def __init__(self, bounds: Sequence[float]):
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_s += seconds


class TimesMetric(Collector):
    """All sets of labels of one metric, in the order in which they were first named."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ):
        self._name, self._text, self._labels, self._bounds = name, text, labels, tuple(bounds)
        self._series: dict[tuple[str, ...], Times] = {}
        registry.register(self)

    def labels(self, *values: str) -> Times:
        if values not in self._series:
            self._series[values] = Times(self._bounds)
        return self._series[values]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        bounds = [floatToGoString(bound) for bound in (*self._bounds, math.inf)]  # type: ignore[no-untyped-call]
        for values, times in self._series.items():
            passed = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip(bounds, times.counts, strict=True):
                passed += count
                buckets.append((bound, passed))
            family.add_metric(values, buckets, times.sum_s)
        yield family
