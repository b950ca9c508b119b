"""What the components count and a scrape keeps: the names and labels of production, as raw samples in virtual time.

Engines and router have the counters that core/observation.py reads; `Target.scrape` takes a sample of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from llmservice_core import metric_names as names
from llmservice_core.contract import target_label
from llmservice_core.latency import Work
from llmservice_core.metric_names import FEATURES, KINDS
from llmservice_core.model import Pool, ServiceClass
from llmservice_core.samples import Series
from llmservice_core.step_sums import PAIRS, KindSums, features, kind_of
from llmservice_sim.fleet_settings import Replica

Row = tuple[str, dict[str, str]]
"""Name and labels of a series."""


class Target:
    """One scraped process: its series all have the same times. A process that starts anew counts from zero."""

    def __init__(self, rows: Sequence[Row], labels: dict[str, str]) -> None:
        self._rows = [(name, {**labels, **own}) for name, own in rows]
        self._times: list[float] = []
        self._values: list[list[float]] = [[] for _ in rows]

    def scrape(self, now_s: float, values: Iterable[float]) -> None:
        self._times.append(now_s)
        for kept, value in zip(self._values, values, strict=True):
            kept.append(value)

    @property
    def newest(self) -> list[float] | None:
        """The last sample of every series; None before the first scrape."""
        return [kept[-1] for kept in self._values] if self._times else None

    def since(self, oldest_s: float) -> list[Series]:
        """The samples of a range that begins after `oldest_s`; older ones are forgotten."""
        old = sum(t <= oldest_s for t in self._times)
        if old:
            del self._times[:old]
            for kept in self._values:
                del kept[:old]
        if not self._times:
            return []
        pairs = zip(self._rows, self._values, strict=True)
        return [Series(name=n, labels=labels, times=self._times, values=kept) for (n, labels), kept in pairs]


def slo_rows(classes: Iterable[ServiceClass], slo: str) -> list[Row]:
    rows = []
    for c in classes:
        target = c.ttft if slo == names.SLO_TTFT else c.tbt
        labels = {names.CLASS: c.name, "slo": slo, "target": target_label(target.target_s)}
        rows += [(names.SLO_EVENTS, labels), (names.SLO_GOOD, labels)]
    return rows


class EngineCounters:
    """Counters of one engine process. `live`: (waiting, prompts running, decodes running) when scraped."""

    def __init__(self, classes: Sequence[ServiceClass], replica: Replica, live: Callable[[], Sequence[int]]) -> None:
        limits = replica.limits
        self._limits = (replica.kv_tokens, limits.max_batched_tokens, limits.max_seqs, replica.tile_tokens)
        self._tile_tokens = replica.tile_tokens
        self._live = live
        self.kinds = {kind: KindSums() for kind in KINDS}
        self.gaps = {c.name: [0, 0] for c in classes}
        """Of each class, token gaps and those within target."""

    def step(self, work: Work, seconds: float) -> None:
        self.kinds[kind_of(work)].add(features(work, self._tile_tokens), seconds)

    def values(self) -> list[float]:
        waiting, prefills, decodes = self._live()
        found: list[float] = [waiting, prefills, decodes, *self._limits]
        for pair in self.gaps.values():
            found += pair
        for sums in self.kinds.values():
            found += (sums.steps, sums.seconds, *sums.xx, *sums.xy)
        return found

    @staticmethod
    def rows(classes: Sequence[ServiceClass]) -> list[Row]:
        """In the order of `values`."""
        running = [(names.RUNNING, {"phase": phase}) for phase in ("prefill", "decode")]
        limits = (names.KV_TOKENS, names.MAX_BATCHED_TOKENS, names.MAX_SEQS, names.TILE_TOKENS)
        rows: list[Row] = [(names.WAITING, {}), *running, *((name, {}) for name in limits)]
        rows += slo_rows(classes, names.SLO_TBT)
        for kind in KINDS:
            of = {names.KIND: kind}
            rows += [(names.STEPS, of), (names.STEP_SECONDS, of)]
            rows += [(names.STEP_XX, {**of, "i": FEATURES[i], "j": FEATURES[j]}) for i, j in PAIRS]
            rows += [(names.STEP_XY, {**of, "i": feature}) for feature in FEATURES]
        return rows


def engine_target(name: str, pool: Pool, classes: Sequence[ServiceClass]) -> Target:
    return Target(EngineCounters.rows(classes), {names.POOL: pool.value, "pod": name, "instance": name})


PER_CLASS = (
    names.ARRIVALS,
    names.PROMPT_TOKENS,
    names.PROMPTS,
    names.CACHED_TOKENS,
    names.OUTPUT_TOKENS,
    names.ANSWERS,
)


class RouterCounters:
    """Counters of the one router that the simulated service has."""

    def __init__(self, classes: Sequence[ServiceClass]) -> None:
        self.classes = classes
        self.counts = {c.name: dict.fromkeys(PER_CLASS, 0) for c in classes}
        self.ttft = {c.name: [0, 0] for c in classes}
        self.waiting_prompt_tokens = 0

    def add(self, class_name: str, counter: str, amount: int = 1) -> None:
        self.counts[class_name][counter] += amount

    def judge(self, class_name: str, is_good: bool) -> None:
        pair = self.ttft[class_name]
        pair[0] += 1
        pair[1] += is_good

    def values(self) -> list[float]:
        found: list[float] = [self.waiting_prompt_tokens]
        for counts in self.counts.values():
            found += counts.values()
        for pair in self.ttft.values():
            found += pair
        return found

    def target(self, name: str) -> Target:
        per_class = [(counter, {names.CLASS: c.name}) for c in self.classes for counter in PER_CLASS]
        rows = [(names.WAITING_PROMPT_TOKENS, {}), *per_class, *slo_rows(self.classes, names.SLO_TTFT)]
        return Target(rows, {"pod": name, "instance": name})
