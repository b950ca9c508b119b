"""Samples of one service -> one `Observation`: all that a plan may know of what its metrics say. Pure; no PromQL.

What is not in the samples is None; a failure is never a zero. The operator hands in what Prometheus kept, the simulator
what its own scrapes kept: both see a service through the same windows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from llmservice_core import metric_names as names
from llmservice_core.contract import target_label
from llmservice_core.dispersion import dispersion
from llmservice_core.model import Attainment, ClassTraffic, Goal, Observation, Pool, PoolSeen, ServiceClass, Slo
from llmservice_core.observation_engines import engines_seen
from llmservice_core.samples import Series, Windows, covered_s, increase, live, scrape_gap_s, unscraped, windows

ENOUGH_REQUESTS = 50.0
"""A mean length over fewer requests than this looks further back."""
ROUTER_COUNTERS = (
    names.ARRIVALS,
    names.PROMPT_TOKENS,
    names.PROMPTS,
    names.CACHED_TOKENS,
    names.OUTPUT_TOKENS,
    names.ANSWERS,
)
STEP_COUNTERS = (names.STEPS, names.STEP_SECONDS, names.STEP_XX, names.STEP_XY)
ENGINE_GAUGES = (
    names.RUNNING,
    names.WAITING,
    names.KV_TOKENS,
    names.MAX_BATCHED_TOKENS,
    names.MAX_SEQS,
    names.TILE_TOKENS,
)
NAMES = (
    *ROUTER_COUNTERS,
    names.WAITING_PROMPT_TOKENS,
    names.SLO_EVENTS,
    names.SLO_GOOD,
    *STEP_COUNTERS,
    *ENGINE_GAUGES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadySince:
    """When each pod that is Ready now became so: who is Ready for long should have been scraped."""

    routers: Sequence[float] = ()
    engines: Mapping[Pool, Sequence[float]] = field(default_factory=dict)


NOBODY: Final = ReadySince()


def observed(
    goal: Goal,
    series: Sequence[Series],
    pools: Sequence[PoolSeen],
    start_up_s: float | None,
    now_s: float,
    ready: ReadySince = NOBODY,
) -> Observation | None:
    """What these samples say; None where none is a router's. All windows end at the newest sample of a router.

    Samples of longer ago than `samples.range_s` change nothing: who asks for more of them knows no more.
    """
    arrivals = [s for s in series if s.name == names.ARRIVALS]
    if not arrivals:
        return None
    end_s, gap_s = max(s.times[-1] for s in arrivals), scrape_gap_s(arrivals)
    w = windows(gap_s)
    routers = [s for s in series if names.POOL not in s.labels]
    engines = [s for s in series if names.POOL in s.labels]
    alive = live(routers, end_s, gap_s)
    waiting = [s for s in alive if s.name == names.WAITING_PROMPT_TOKENS]
    return Observation(
        time_s=now_s,
        newest_sample_s=end_s,
        scrape_gap_s=gap_s,
        window_s=covered_s(arrivals, end_s - w.rate_s),
        recent_window_s=covered_s(arrivals, end_s - w.recent_s) or None,
        dispersion=dispersion(arrivals, end_s - w.full_s),
        classes=tuple(_traffic(c, routers, engines, end_s, w) for c in goal.classes),
        pools=tuple(engines_seen(p, engines, end_s, gap_s, w, ready.engines.get(p.pool, ())) for p in pools),
        waiting_prompt_tokens=max(0.0, sum(s.values[-1] for s in waiting)) if waiting else None,
        start_up_s=start_up_s,
        unscraped_routers=unscraped(ready.routers, [s for s in alive if s.name == names.ARRIVALS], end_s, gap_s),
    )


def nothing_known(
    goal: Goal, pools: Sequence[PoolSeen], start_up_s: float | None, now_s: float, problem: str
) -> Observation:
    """An Observation in which all that Prometheus should have said is None."""
    return Observation(
        time_s=now_s,
        newest_sample_s=None,
        scrape_gap_s=None,
        window_s=0.0,
        classes=tuple(_unknown(c.name) for c in goal.classes),
        pools=tuple(pools),
        waiting_prompt_tokens=None,
        start_up_s=start_up_s,
        problem=problem,
    )


def _unknown(name: str) -> ClassTraffic:
    return ClassTraffic(name=name, arrivals_rps=None, prompt_tokens=None, output_tokens=None, ttft=None, tbt=None)


def _traffic(
    c: ServiceClass, routers: Sequence[Series], engines: Sequence[Series], end_s: float, w: Windows
) -> ClassTraffic:
    own = [s for s in routers if s.labels.get(names.CLASS) == c.name]
    counters = {name: [s for s in own if s.name == name] for name in ROUTER_COUNTERS}
    arrivals = counters[names.ARRIVALS]
    prompt = [(names.PROMPT_TOKENS, 1.0), (names.CACHED_TOKENS, -1.0)]
    return ClassTraffic(
        name=c.name,
        arrivals_rps=_rate(arrivals, end_s - w.rate_s),
        recent_rps=_rate(arrivals, end_s - w.recent_s),
        dispersion=dispersion(arrivals, end_s - w.full_s),
        prompt_tokens=_mean_length(counters, prompt, names.PROMPTS, end_s, w),
        output_tokens=_mean_length(counters, [(names.OUTPUT_TOKENS, 1.0)], names.ANSWERS, end_s, w),
        ttft=_attainment(routers, c.name, names.SLO_TTFT, c.ttft, end_s - w.rate_s),
        tbt=_attainment(engines, c.name, names.SLO_TBT, c.tbt, end_s - w.rate_s),
    )


def _rate(series: Sequence[Series], since_s: float) -> float | None:
    """Events per second over all series; None before the second scrape."""
    seconds = covered_s(series, since_s)
    return _increase(series, since_s) / seconds if seconds > 0 else None


def _mean_length(
    counters: dict[str, list[Series]],
    tokens: Sequence[tuple[str, float]],
    requests: str,
    end_s: float,
    w: Windows,
) -> float | None:
    """Tokens per request over the shortest window with enough requests; None if not one ended in the longest."""
    for window_s in w.lengths_s:
        since_s = end_s - window_s
        count = _increase(counters[requests], since_s)
        if count >= ENOUGH_REQUESTS or (window_s == w.full_s and count > 0):
            total = sum(sign * _increase(counters[name], since_s) for name, sign in tokens)
            return max(0.0, total) / count
    return None


def _attainment(series: Sequence[Series], class_name: str, slo: str, target: Slo, since_s: float) -> Attainment | None:
    """Events against the present target. Where its process is scraped but the series absent, nothing happened yet."""
    if not any(s.times[-1] > since_s for s in series):
        return None
    identity = {names.CLASS: class_name, "slo": slo, "target": target_label(target.target_s)}
    own = [s for s in series if identity.items() <= s.labels.items()]
    events = _increase([s for s in own if s.name == names.SLO_EVENTS], since_s)
    good = _increase([s for s in own if s.name == names.SLO_GOOD], since_s)
    return Attainment(target_s=target.target_s, events=events, good=min(good, events))


def _increase(series: Iterable[Series], since_s: float) -> float:
    return sum(increase(s, since_s) for s in series)
