"""The recorded run beside the simulated one. Pure: two runs in, how far they agree out.

Agreement (d) of the simulator with reality: the same replicas over time within one interval, TTFT p95 within 20 %.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from e2e.scaling.recording import Recording
from e2e.scaling.simulate import lead_s
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.summary import percentile

Steps = Sequence[tuple[float, int]]
"""(time, size from then on), in order of time."""
NEAR = 0.20


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSide:
    """`agree`: share of the seconds at which the simulated size is one that was recorded within one interval."""

    pool: str
    recorded: Steps
    simulated: Steps
    agree: float
    recorded_mean: float
    simulated_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSide:
    """TTFT in seconds over requests that got a token; None without any."""

    name: str
    requests: int
    failed: int
    recorded_p50_s: float | None
    simulated_p50_s: float | None
    recorded_p95_s: float | None
    simulated_p95_s: float | None

    @property
    def p95_off(self) -> float | None:
        """Simulated against recorded, as a share."""
        if not self.recorded_p95_s or self.simulated_p95_s is None:
            return None
        return self.simulated_p95_s / self.recorded_p95_s - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    pools: Sequence[PoolSide]
    classes: Sequence[ClassSide]

    @property
    def is_agreed(self) -> bool:
        """(d), to the letter."""
        near = [c.p95_off is not None and abs(c.p95_off) <= NEAR for c in self.classes if c.requests]
        return all(p.agree == 1.0 for p in self.pools) and all(near)


def sides(recording: Recording, result: FleetResult) -> Sides:
    pools = [_pool(recording, result, name) for name in recording.sizes[0].desired]
    names = [c["name"] for c in recording.service["spec"]["classes"]]
    return Sides(pools=pools, classes=[_class(recording, result, name) for name in [*names, ALL]])


ALL = "all"


def _pool(recording: Recording, result: FleetResult, pool: str) -> PoolSide:
    real = stepped([(s.time_s, s.desired[pool]) for s in recording.sizes])
    moments = [(m.time_s - lead_s(recording), _named(m.desired)[pool]) for m in result.moments]
    virtual = stepped([*moments[:1], *[(t, n) for t, n in moments[1:]]])
    seconds = range(int(recording.end_s))
    agreed = [at(virtual, t) in _around(real, t, recording.interval_s) for t in seconds]
    return PoolSide(
        pool=pool,
        recorded=real,
        simulated=virtual,
        agree=sum(agreed) / len(agreed),
        recorded_mean=sum(at(real, t) for t in seconds) / len(seconds),
        simulated_mean=sum(at(virtual, t) for t in seconds) / len(seconds),
    )


def _named(sizes: Mapping[object, int]) -> dict[str, int]:
    return {str(pool): size for pool, size in sizes.items()}


def stepped(samples: Steps) -> list[tuple[float, int]]:
    """Only where the size changed."""
    return [row for i, row in enumerate(samples) if i == 0 or row[1] != samples[i - 1][1]]


def at(steps: Steps, time_s: float) -> int:
    """The size at that time; before the first one, the first one's."""
    return steps[max(0, bisect_right([t for t, _ in steps], time_s) - 1)][1]


def _around(steps: Steps, time_s: float, within_s: float) -> set[int]:
    inside = {n for t, n in steps if time_s - within_s <= t <= time_s + within_s}
    return inside | {at(steps, time_s - within_s)}


def _class(recording: Recording, result: FleetResult, name: str) -> ClassSide:
    own = [r for r in recording.requests if name in (ALL, r.service_class)]
    real = sorted(r.ttft_s for r in own if r.ttft_s is not None)
    found = [r for r in result.requests if name in (ALL, r.service_class.name)]
    virtual = sorted(t for r in found if (t := r.ttft_s) is not None)
    return ClassSide(
        name=name,
        requests=len(own),
        failed=sum(r.error is not None for r in own),
        recorded_p50_s=percentile(real, 0.5),
        simulated_p50_s=percentile(virtual, 0.5),
        recorded_p95_s=percentile(real, 0.95),
        simulated_p95_s=percentile(virtual, 0.95),
    )


def text(found: Sides) -> str:
    lines = [f"{'pool':9}{'same within one interval':>26}{'mean recorded':>15}{'simulated':>11}"]
    for p in found.pools:
        lines.append(f"{p.pool:9}{p.agree:>25.1%} {p.recorded_mean:>15.2f}{p.simulated_mean:>11.2f}")
        lines.append(f"  recorded:  {_changes(p.recorded)}")
        lines.append(f"  simulated: {_changes(p.simulated)}")
    lines.append(
        f"{'class':13}{'requests':>9}{'failed':>8}{'p50 rec.':>10}{'sim.':>8}{'p95 rec.':>10}{'sim.':>8}{'off':>8}"
    )
    for c in found.classes:
        off = "-" if c.p95_off is None else f"{c.p95_off:+.0%}"
        lines.append(
            f"{c.name:13}{c.requests:>9}{c.failed:>8}{_s(c.recorded_p50_s):>10}{_s(c.simulated_p50_s):>8}"
            f"{_s(c.recorded_p95_s):>10}{_s(c.simulated_p95_s):>8}{off:>8}"
        )
    verdict = "yes" if found.is_agreed else "NO"
    lines.append(f"replicas within one interval throughout, TTFT p95 within {NEAR:.0%}: {verdict}")
    return "\n".join(lines)


def _changes(steps: Steps) -> str:
    return ", ".join(f"{n} from {t:.0f} s" for t, n in steps)


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"
