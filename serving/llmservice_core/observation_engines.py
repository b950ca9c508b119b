"""What engines say: step statistics added up over the pods of a pool, limits, queues. Pure; no PromQL, no clock.

A pod's sums are differenced between two scrapes of that pod, all at the same two timestamps, never across a restart.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from llmservice_core import metric_names as names
from llmservice_core.model import EngineLimits, PoolSeen, StepStats
from llmservice_core.samples import Series, Windows, live, mean_since, unscraped

FIRST_STEPS = 20.0
"""A process's first steps are left out: they compile, allocate and page in."""
INDEX = {feature: i for i, feature in enumerate(names.FEATURES)}

Key = tuple[str, ...]
Pod = Mapping[Key, Series]


def engines_seen(
    pool: PoolSeen,
    series: Sequence[Series],
    newest_s: float,
    gap_s: float | None,
    windows: Windows,
    ready_since_s: Sequence[float] = (),
) -> PoolSeen:
    """The pool as the cluster shows it, with what its engines say about themselves, and how many say nothing."""
    own = [s for s in series if s.labels.get(names.POOL) == pool.pool.value]
    alive = live(own, newest_s, gap_s)
    since_s = newest_s - windows.recent_s
    decodes = [s for s in alive if s.name == names.RUNNING and s.labels.get("phase") == "decode"]
    return replace(
        pool,
        limits=_limits(alive),
        steps=step_stats(own, newest_s - windows.full_s),
        recent_steps=step_stats(own, newest_s - windows.lengths_s[0]),
        waiting=_sum(s.values[-1] for s in alive if s.name == names.WAITING),
        running_decodes=_sum(mean_since(s, since_s) for s in decodes),
        unscraped=unscraped(ready_since_s, alive, newest_s, gap_s),
    )


def step_stats(series: Iterable[Series], since_s: float) -> tuple[StepStats, ...]:
    """Sums per kind over all pods and all stretches between restarts; kinds without a step are left out."""
    parts: dict[str, list[StepStats]] = {}
    for pod in _by_pod(series).values():
        for start_s, end_s in stretches(pod, since_s):
            for part in _differences(pod, start_s, end_s):
                parts.setdefault(part.kind, []).append(part)
    return tuple(_added(kind, found) for kind, found in sorted(parts.items()))


def stretches(pod: Pod, since_s: float) -> list[tuple[float, float]]:
    """(first, last) scrape of each run of the process in the window, without its first steps."""
    steps = [s for key, s in pod.items() if key[0] == names.STEPS]
    times = sorted({t for s in steps for t in s.times if t >= since_s})
    found: list[list[float]] = []
    before = -1.0
    for t in times:
        total = sum(value_at(s, t) or 0.0 for s in steps)
        if total < before or not found:
            found.append([])
        if total >= FIRST_STEPS:
            found[-1].append(t)
        before = total
    return [(run[0], run[-1]) for run in found if len(run) > 1]


def value_at(series: Series, time_s: float) -> float | None:
    """The sample of exactly this scrape; 0 before the series began (a counter that appears starts at 0)."""
    i = bisect_left(series.times, time_s)
    if i < len(series.times) and series.times[i] == time_s:
        return series.values[i]
    return 0.0 if i == 0 else None


def _by_pod(series: Iterable[Series]) -> dict[Key, dict[Key, Series]]:
    pods: dict[Key, dict[Key, Series]] = {}
    for s in series:
        if names.KIND in s.labels:
            pod = (s.labels.get("pod", ""), s.labels.get("instance", ""))
            key = (s.name, s.labels[names.KIND], s.labels.get("i", ""), s.labels.get("j", ""))
            pods.setdefault(pod, {})[key] = s
    return pods


def _differences(pod: Pod, start_s: float, end_s: float) -> Iterator[StepStats]:
    grown: dict[str, dict[Key, float]] = {}
    for (name, kind, i, j), s in pod.items():
        start, end = value_at(s, start_s), value_at(s, end_s)
        if start is None or end is None:
            return
        grown.setdefault(kind, {})[(name, i, j)] = end - start
    for kind, found in grown.items():
        steps = found.get((names.STEPS, "", ""), 0.0)
        if steps > 0:
            yield _stats(kind, steps, found)


def _stats(kind: str, steps: float, found: Mapping[Key, float]) -> StepStats:
    xx = {(INDEX[i], INDEX[j]): v for (name, i, j), v in found.items() if name == names.STEP_XX and _known(i, j)}
    xy = {INDEX[i]: v for (name, i, _), v in found.items() if name == names.STEP_XY and _known(i)}
    seconds = found.get((names.STEP_SECONDS, "", ""), 0.0)
    return StepStats(kind=kind, steps=steps, seconds=seconds, xx=xx, xy=xy)


def _known(*features: str) -> bool:
    """Features of an engine that is newer than this operator are ignored."""
    return all(f in INDEX for f in features)


def _added(kind: str, parts: Sequence[StepStats]) -> StepStats:
    xx: dict[tuple[int, int], float] = {}
    xy: dict[int, float] = {}
    for part in parts:
        for pair, value in part.xx.items():
            xx[pair] = xx.get(pair, 0.0) + value
        for i, value in part.xy.items():
            xy[i] = xy.get(i, 0.0) + value
    return StepStats(kind=kind, steps=sum(p.steps for p in parts), seconds=sum(p.seconds for p in parts), xx=xx, xy=xy)


def _limits(alive: Sequence[Series]) -> EngineLimits | None:
    """The smallest value of each limit over the pool's live engines; None if no engine reports any."""
    smallest = {
        name: min((s.values[-1] for s in alive if s.name == name), default=None)
        for name in (names.KV_TOKENS, names.MAX_BATCHED_TOKENS, names.MAX_SEQS, names.TILE_TOKENS)
    }
    if all(value is None for value in smallest.values()):
        return None
    return EngineLimits(
        kv_tokens=smallest[names.KV_TOKENS],
        max_batched_tokens=smallest[names.MAX_BATCHED_TOKENS],
        max_seqs=smallest[names.MAX_SEQS],
        tile_tokens=smallest[names.TILE_TOKENS],
    )


def _sum(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) if found else None
