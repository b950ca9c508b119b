"""How many servers keep waiting short: a queue with general services and arrivals that may come together. Pure.

Arrivals are known by their index of dispersion I: the variance of the count between two scrapes over its mean, 1 when
they are Poisson. It enters in two places: as the arrivals' part of the variability that makes a queue (I in the place
of c_a^2 in Kingman's and Allen and Cunneen's formulas), and as the peakedness z = (1 + I) / 2 of the busy servers
(exponential services much longer than the bursts; Whitt 2004), whose deviation is sqrt(z) times a Poisson count's.
"""

import math
from typing import Final

LEAST_ALLOWED: Final = 1e-3
"""No promise is planned for more exactly: a percentile of 100 has no finite answer."""
MOST_DISPERSION: Final = 12.0
"""Beyond it pods that a plan asks for come too late, or stand idle between two bursts (sizing study)."""
BISECTIONS: Final = 24


def within(dispersion: float | None) -> float:
    """What a plan goes by: Poisson while unknown."""
    return 1.0 if dispersion is None else min(MOST_DISPERSION, max(1.0, dispersion))


def peakedness(dispersion: float) -> float:
    """Variance over mean of the busy servers, were there always one free."""
    return (1.0 + dispersion) / 2.0


def late_share(u: float, replicas: float, slack: float, dispersion: float = 1.0) -> float:
    """Share of the requests that wait longer than `slack`: P(W > slack) = P(wait) exp(-2 (n - u) slack), `slack` in
    units of E[s] (I + c_s^2). P(wait) = load ^ ((sqrt(2 (n + 1)) - 1) / sqrt(z)): Sakasegawa's approximation (1977),
    the distance to full load in deviations of the busy servers (Halfin and Whitt)."""
    if replicas <= 0.0:
        return 1.0
    power = (math.sqrt(2.0 * (replicas + 1.0)) - 1.0) / math.sqrt(peakedness(dispersion))
    waits = min(1.0, u / replicas) ** power
    return float(waits * math.exp(-2.0 * max(0.0, replicas - u) * slack))


def punctual(u: float, slack: float, allowed: float, dispersion: float = 1.0) -> float:
    """Fewest replicas, as a real number, at which no more than `allowed` of this work waits longer than `slack`."""
    allowed = max(allowed, LEAST_ALLOWED)
    low, high = u, u + 1.0
    while late_share(u, high, slack, dispersion) > allowed:
        high = u + 2.0 * (high - u)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if late_share(u, middle, slack, dispersion) > allowed else (low, middle)
    return high
