"""Each process counts once, however many scrape jobs or Prometheus replicas have its samples. Pure.

Two replicas of a highly available Prometheus answer with every series twice, told apart by an external label; a
PodMonitor and an annotation may find the same pod under two jobs. Summed, both would double the demand. Of each process
one source is taken for all its series, because step sums belong together.
"""

from collections.abc import Iterable, Sequence

from llmservice_core import metric_names as names
from llmservice_core.samples import Series

OURS = frozenset({"__name__", "pod", "instance", "i", "j", "slo", "target", "phase"})
OUR_LABELS = OURS | {names.LLMSERVICE, names.POOL, names.CLASS, names.KIND}
"""What tells our own series apart; every other label is of whoever scraped or stored it."""
FRESH_S = 30.0
"""Sources whose newest samples are no further apart are equally fresh: two usual scrape gaps."""

Target = tuple[str, str]
Source = tuple[tuple[str, str], ...]


def one_source(series: Sequence[Series]) -> list[Series]:
    """Without what a second source says of the same process. A process without pod and instance is left as it is."""
    found: dict[Target, dict[Source, list[Series]]] = {}
    for s in series:
        target = (s.labels.get("pod", ""), s.labels.get("instance", ""))
        found.setdefault(target, {}).setdefault(_source(s), []).append(s)
    kept: list[Series] = []
    for target, sources in found.items():
        known = any(target) and len(sources) > 1
        kept += _best(sources) if known else [s for rows in sources.values() for s in rows]
    return kept


def _source(series: Series) -> Source:
    return tuple(sorted((k, v) for k, v in series.labels.items() if k not in OUR_LABELS))


def _best(sources: dict[Source, list[Series]]) -> list[Series]:
    """Of the fresh ones the longest; where they are as long, always the same."""
    newest = {source: max(s.times[-1] for s in rows) for source, rows in sources.items()}
    fresh = [source for source, time_s in newest.items() if time_s >= max(newest.values()) - FRESH_S]
    return sources[max(sorted(fresh), key=lambda source: _length_s(sources[source]))]


def _length_s(series: Iterable[Series]) -> float:
    """In whole minutes, so that the same source is taken from one query to the next."""
    return max(s.times[-1] - s.times[0] for s in series) // 60.0
