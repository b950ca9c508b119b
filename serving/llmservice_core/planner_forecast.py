"""The work to expect when a pod that is asked for now will serve: trend and the plan's own past errors. Pure.

After our sizing study: T = (u(now) / u(150 s ago)) ^ (H / 300), half of what has grown goes on, and a margin of 0.3
standard deviations of the errors that "as much as now" made over the horizon H, in logarithms. H: start-up time plus
two scrapes. Growth that both halves of the 150 s show is a ramp and goes on at the pace of the later half (of twice the
earlier one at most); a burst shows in one of them. It must show in every pool: a change of lengths, or lengths that a
new service learns as its first answers end, are no ramp.
Only growth is extrapolated: sizes go down later anyway.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmservice_core.model import Pool

TREND_S: Final = 150.0
TREND_WEIGHT: Final = 0.5
MOST_TREND: Final = 1.5
MOST_RAMP: Final = 3.0
ERROR_WEIGHT: Final = 0.3
PRIOR_ERROR: Final = 0.10
PRIOR_COUNT: Final = 40.0
"""Before anything was seen, errors of 10 % are expected, with the weight of so many observations."""
ERRORS_HALF_LIFE_S: Final = 6 * 3600.0
MOST_ERROR: Final = 2.0
MOST_POINTS: Final = 16

Past = tuple[tuple[float, float], ...]
"""(time, replicas of work) in order of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Sum of squared logarithmic errors and their number, both forgetting."""

    squares: float = 0.0
    count: float = 0.0

    @property
    def sigma(self) -> float:
        """Standard deviation, with the prior."""
        return math.sqrt((self.squares + PRIOR_COUNT * PRIOR_ERROR**2) / (self.count + PRIOR_COUNT))

    def add(self, error: float, seconds: float) -> "Errors":
        """One more, `seconds` after the last one."""
        keep = math.exp2(-seconds / ERRORS_HALF_LIFE_S)
        bounded = min(MOST_ERROR, abs(error))
        return Errors(squares=keep * self.squares + bounded**2, count=keep * self.count + 1.0)


def learned_errors(errors: Errors, past: Past, now_s: float, work: float, horizon_s: float) -> Errors:
    """With the error of what was foreseen one horizon ago, once for each point in time."""
    then = at(past, now_s - horizon_s)
    if not past or past[-1][0] >= now_s or then is None or then <= 0.0 or work <= 0.0:
        return errors
    return errors.add(math.log(work / then), now_s - past[-1][0])


def continued(past: Past, now_s: float, work: float, horizon_s: float) -> Past:
    """With the present; as much of the past as is looked back upon, thinned to a few points."""
    longest_s = 1.5 * max(TREND_S, horizon_s)
    kept = tuple((t, u) for t, u in past if now_s - longest_s < t < now_s)
    if len(kept) > 1 and kept[-1][0] - kept[-2][0] < longest_s / MOST_POINTS:
        kept = kept[:-1]
    return (*kept, (now_s, work))


def at(past: Past, time_s: float) -> float | None:
    """The work of the last point up to then; None if the past does not reach so far back."""
    return next((u for t, u in reversed(past) if t <= time_s), None)


def trend(
    pasts: Mapping[Pool, Past],
    now_s: float,
    works: Mapping[Pool, float],
    error: float,
    horizon_s: float,
    ramps: bool = True,
) -> float:
    """By how much all work together will have grown over the horizon: 1 unless it grew beyond chance.

    `error`: standard error of the work of one window, as a share of it. `ramps` False: all growth at half the weight.
    """
    known = {p: (at(pasts.get(p, ()), now_s - TREND_S), at(pasts.get(p, ()), now_s - TREND_S / 2.0)) for p in works}
    before = [then for then, _ in known.values() if then is not None]
    if len(before) < len(works):
        return 1.0
    half = TREND_WEIGHT * _growth(sum(before), sum(works.values()), error) * horizon_s / TREND_S
    grown = min(math.log(MOST_TREND), half)
    if ramps and works:
        pace = min(_pace(then or 0.0, middle or 0.0, works[p], error) for p, (then, middle) in known.items())
        grown = max(grown, min(math.log(MOST_RAMP), pace * horizon_s))
    return math.exp(grown)


def _pace(then: float, middle: float, now: float, error: float) -> float:
    """Per second, of growth that both halves of TREND_S show."""
    return 2.0 * min(_growth(middle, now, error), 2.0 * _growth(then, middle, error)) / TREND_S


def _growth(then: float, now: float, error: float) -> float:
    """Logarithm of the ratio, less what chance explains; 0 where nothing grew or nothing was there to grow."""
    if then <= 0.0 or now <= then:
        return 0.0
    return max(0.0, math.log(now / then) - math.sqrt(2.0) * error)


def spare(errors: Errors) -> float:
    """Factor for what the forecast has missed by lately."""
    return math.exp(ERROR_WEIGHT * errors.sigma)
