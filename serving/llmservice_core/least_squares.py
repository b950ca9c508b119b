"""Non-negative least squares with a ridge on a handful of features, from sums only. Exact; no samples are kept.

Minimises |X t - y|^2 / n + r sum_i (t_i D_i - p_i D_i)^2 over t >= 0, where p is the prior and D_i the root mean square
of feature i. Scaling by D makes one ridge right for features of any unit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

Matrix = list[list[float]]
SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """`xx` = X^T X (full, symmetric), `xy` = X^T y, over `count` samples whose y add up to `total_y`."""

    count: float
    total_y: float
    xx: Sequence[Sequence[float]]
    xy: Sequence[float]

    @property
    def mean_y(self) -> float:
        return self.total_y / self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Coefficients, and how far a prediction may be off. `inverse` is (X^T X / n + ridge)^-1 in scaled features."""

    theta: tuple[float, ...]
    scale: tuple[float, ...]
    inverse: Sequence[Sequence[float]]
    sigma: float
    """Standard error of one scaled coefficient whose direction is fully seen."""

    def predict(self, x: Sequence[float]) -> float:
        return sum(t * v for t, v in zip(self.theta, x, strict=True))

    def error(self, x: Sequence[float]) -> float:
        """Standard error of `predict(x)`; infinite if x uses a feature that no sample had."""
        if any(v and not s for v, s in zip(x, self.scale, strict=True)):
            return math.inf
        z = [v / s if s else 0.0 for v, s in zip(x, self.scale, strict=True)]
        spread = sum(a * b * self.inverse[i][j] for i, a in enumerate(z) for j, b in enumerate(z))
        return self.sigma * math.sqrt(max(spread, 0.0))


def fit(sums: Sums, *, noise: float, trust: float, most: float, prior: Sequence[float] | None = None) -> Fit:
    """Posterior mode: each sample has noise of `noise` x mean y, each scaled prior is off by `trust` x mean y.

    Why `most`: the model's own error does not average out, so no more than `most` samples count as independent.
    """
    size = len(sums.xy)
    scale = tuple(math.sqrt(sums.xx[i][i] / sums.count) for i in range(size))
    ridge = (noise / trust) ** 2 / min(sums.count, most)
    centre = [p * s for p, s in zip(prior, scale, strict=True)] if prior else [0.0] * size
    a, b = _scaled(sums, scale, ridge, centre)
    scaled = non_negative(a, b)
    theta = tuple(
        t / s if s else (prior[i] if prior else 0.0) for i, (t, s) in enumerate(zip(scaled, scale, strict=True))
    )
    sigma = noise * sums.mean_y / math.sqrt(min(sums.count, most))
    return Fit(theta=theta, scale=scale, inverse=_inverse(a), sigma=sigma)


def non_negative(a: Matrix, b: Sequence[float]) -> list[float]:
    """The t >= 0 that minimises t'At/2 - b't: the only support that meets the Karush-Kuhn-Tucker conditions.

    Tries all supports, largest first (64 for six features): short, exact, and it cannot cycle.
    """
    size = len(b)
    for width in range(size, 0, -1):
        for support in combinations(range(size), width):
            inside = solve([[a[i][j] for j in support] for i in support], [b[i] for i in support])
            if min(inside) < 0.0:
                continue
            t = [0.0] * size
            for i, value in zip(support, inside, strict=True):
                t[i] = value
            if all(_gradient(a, b, t, i) >= -SLACK for i in range(size) if i not in support):
                return t
    return [0.0] * size


def solve(a: Matrix, b: Sequence[float]) -> list[float]:
    """Gaussian elimination with row exchange; `a` is positive definite thanks to the ridge."""
    rows = [[*row, value] for row, value in zip(a, b, strict=True)]
    size = len(rows)
    for k in range(size):
        pivot = max(range(k, size), key=lambda r: abs(rows[r][k]))
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for r in range(k + 1, size):
            factor = rows[r][k] / rows[k][k]
            rows[r] = [v - factor * w for v, w in zip(rows[r], rows[k], strict=True)]
    x = [0.0] * size
    for k in range(size - 1, -1, -1):
        x[k] = (rows[k][size] - sum(rows[k][j] * x[j] for j in range(k + 1, size))) / rows[k][k]
    return x


def add(parts: Sequence[Sums]) -> Sums:
    """Sums over several sources; all have the same features."""
    size = len(parts[0].xy)
    return Sums(
        count=sum(p.count for p in parts),
        total_y=sum(p.total_y for p in parts),
        xx=[[sum(p.xx[i][j] for p in parts) for j in range(size)] for i in range(size)],
        xy=[sum(p.xy[i] for p in parts) for i in range(size)],
    )


def from_triangle(
    count: float, total_y: float, xx: Mapping[tuple[int, int], float], xy: Mapping[int, float], size: int
) -> Sums:
    """Sums from the upper triangle; an entry that is absent is zero (the feature never occurred)."""
    full = [[xx.get((min(i, j), max(i, j)), 0.0) for j in range(size)] for i in range(size)]
    return Sums(count=count, total_y=total_y, xx=full, xy=[xy.get(i, 0.0) for i in range(size)])


def _scaled(sums: Sums, scale: Sequence[float], ridge: float, centre: Sequence[float]) -> tuple[Matrix, list[float]]:
    """A feature that never occurred gets an identity row, so that it decides nothing."""
    unit = [s or 1.0 for s in scale]
    size = len(scale)
    a = [[sums.xx[i][j] / (sums.count * unit[i] * unit[j]) for j in range(size)] for i in range(size)]
    b = [sums.xy[i] / (sums.count * unit[i]) + ridge * centre[i] for i in range(size)]
    for i in range(size):
        a[i][i] += ridge if scale[i] else 1.0
    return a, b


def _gradient(a: Matrix, b: Sequence[float], t: Sequence[float], i: int) -> float:
    return sum(a[i][j] * t[j] for j in range(len(t))) - b[i]


def _inverse(a: Matrix) -> Matrix:
    size = len(a)
    columns = [solve(a, [1.0 if i == k else 0.0 for i in range(size)]) for k in range(size)]
    return [list(row) for row in zip(*columns, strict=True)]
