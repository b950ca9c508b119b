"""How far arrivals come together, from counters as scrapes keep them, and what that asks of a pool."""

import random
from bisect import insort
from collections.abc import Callable, Sequence
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.dispersion import dispersion
from llmservice_core.queueing import late_share, punctual
from llmservice_core.samples import Series

GAP_S = 15.0
LONG = 4000
"""Scrapes: the error of I is a few per cent."""


def counter(counts: Sequence[float], pod: str = "router-0", gap_s: float = GAP_S, shift_s: float = 0.0) -> Series:
    """A counter that grew by these counts, one between two scrapes."""
    times = [shift_s + gap_s * i for i in range(len(counts) + 1)]
    return Series(name="arrivals", labels={"pod": pod}, times=times, values=[0.0, *accumulate(counts)])


def poisson(rng: random.Random, mean: float) -> int:
    time, count = rng.expovariate(mean), 0
    while time < 1.0:
        time, count = time + rng.expovariate(mean), count + 1
    return count


def found(*series: Series) -> float:
    value = dispersion(series, 0.0)
    assert value is not None
    return value


class TestDispersion:
    @pytest.mark.parametrize("mean", [0.5, 10.0])
    @pytest.mark.parametrize("batch", [1, 6])
    def test_of_batches_is_their_size(self, mean: float, batch: int) -> None:
        rng = random.Random(f"{mean}/{batch}")
        assert found(counter([batch * poisson(rng, mean) for _ in range(LONG)])) == pytest.approx(batch, rel=0.1)

    def test_a_rate_that_changes_slowly_is_none(self) -> None:
        rng = random.Random(1)
        assert found(counter([poisson(rng, 5.0 + i / 200) for i in range(LONG)])) == pytest.approx(1.0, rel=0.1)

    @pytest.mark.parametrize("routers", [2, 5])
    def test_is_the_same_however_many_routers_share_the_arrivals(self, routers: int) -> None:
        rng, shares = random.Random(routers), [[0.0] * LONG for _ in range(routers)]
        for i in range(LONG):
            for _ in range(4 * poisson(rng, 10.0)):
                shares[rng.randrange(routers)][i] += 1
        series = [counter(s, f"router-{k}", shift_s=3.0 * k) for k, s in enumerate(shares)]
        assert found(*series) == pytest.approx(4.0, rel=0.15)

    def test_classes_of_one_router_that_come_together_count_together(self) -> None:
        rng = random.Random(3)
        both = [poisson(rng, 10.0) for _ in range(LONG)]
        assert found(counter(both)) == pytest.approx(1.0, rel=0.1)
        assert found(counter(both), counter(both)) == pytest.approx(2.0, rel=0.1)

    def test_a_restart_counts_from_nothing(self) -> None:
        rng = random.Random(4)
        whole = counter([poisson(rng, 10.0) for _ in range(LONG)])
        after = [v - whole.values[100] if i > 100 else v for i, v in enumerate(whole.values)]
        restarted = Series(name=whole.name, labels=whole.labels, times=whole.times, values=after)
        assert found(restarted) == pytest.approx(found(whole), rel=0.05)

    def test_a_scrape_that_failed_makes_no_burst(self) -> None:
        whole = counter([10.0] * 40)
        kept = [i for i in range(41) if i % 13 != 7]
        times, values = [whole.times[i] for i in kept], [whole.values[i] for i in kept]
        assert found(Series(name=whole.name, labels=whole.labels, times=times, values=values)) == 1.0

    @pytest.mark.parametrize("counts", [[], [9.0] * 5, [0.0] * 100], ids=["nothing", "too few scrapes", "no arrivals"])
    def test_is_unknown_where_nothing_is_seen(self, counts: list[float]) -> None:
        assert dispersion([counter(counts)], 0.0) is None
        assert dispersion([], 0.0) is None


def waits(servers: int, load: float, batch: int, services: Callable[[random.Random], float]) -> list[float]:
    """Of 60,000 jobs of mean 1 that arrive in batches and are served in order."""
    rng, now, free, found = random.Random(f"{servers}/{load}/{batch}"), 0.0, [0.0] * servers, []
    while len(found) < 60_000:
        now += rng.expovariate(load * servers / batch)
        for _ in range(batch):
            begins = max(now, free.pop(0))
            found.append(begins - now)
            insort(free, begins + services(rng))
    return found[5_000:]


class TestQueue:
    @pytest.mark.parametrize("batch", [1, 2, 4])
    @pytest.mark.parametrize(("servers", "load"), [(4, 0.7), (8, 0.85), (20, 0.85)])
    def test_late_shares_are_those_of_a_queue(self, servers: int, load: float, batch: int) -> None:
        """Exponential services; batches are the hardest case, for they come at one moment."""
        seen = waits(servers, load, batch, lambda rng: rng.expovariate(1.0))
        for slack in (0.25, 1.0):
            late = sum(w > slack for w in seen) / len(seen)
            expected = late_share(load * servers, servers, slack / (batch + 1.0), batch)
            assert 0.7 * late - 0.01 <= expected <= 1.4 * late + 0.01

    @settings(max_examples=100)
    @given(u=st.floats(0.0, 50.0), slack=st.floats(0.01, 20.0), dispersions=st.tuples(*[st.floats(1.0, 12.0)] * 2))
    def test_more_dispersion_never_takes_fewer(self, u: float, slack: float, dispersions: tuple[float, float]) -> None:
        less, more = sorted(dispersions)
        assert punctual(u, slack, 0.01, less) <= punctual(u, slack, 0.01, more) + 1e-6
