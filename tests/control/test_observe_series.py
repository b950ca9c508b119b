"""Sums over samples: increases across restarts, step statistics per pod and stretch, live and dead series."""

import pytest

from llmservice_core import metric_names as names
from llmservice_core.model import Pool, PoolSeen
from llmservice_core.observation_engines import FIRST_STEPS, engines_seen, step_stats
from llmservice_core.samples import Series, covered_s, increase, live, mean_since, scrape_gap_s, unscraped, windows


def series(*values: float, start_s: float = 0.0, gap_s: float = 5.0, name: str = "x", **labels: str) -> Series:
    times = [start_s + gap_s * k for k in range(len(values))]
    return Series(name=name, labels=labels, times=times, values=list(values))


@pytest.mark.parametrize(
    ("values", "since_s", "grown"),
    [
        pytest.param((1, 3, 6), -1.0, 5.0, id="plain"),
        pytest.param((1, 3, 6), 5.0, 3.0, id="from the sample at the edge"),
        pytest.param((1, 3, 6), 7.0, 3.0, id="from the last sample before the edge"),
        pytest.param((1, 3, 6), 99.0, 0.0, id="nothing after the edge"),
        pytest.param((7, 9, 2, 4), -1.0, 6.0, id="restart: 2 before, then 2 + 2"),
        pytest.param((7, 9, 9), -1.0, 2.0, id="idle"),
        pytest.param((7, 0, 0), -1.0, 0.0, id="restart into idleness"),
        pytest.param((7, 8, 20), -1.0, 13.0, id="a restart that overtakes between two scrapes cannot be seen"),
        pytest.param((5,), -1.0, 0.0, id="one sample"),
    ],
)
def test_increase(values: tuple[float, ...], since_s: float, grown: float) -> None:
    assert increase(series(*values), since_s) == grown


def test_a_router_that_is_gone_does_not_stretch_the_window() -> None:
    old, new = series(1, 2, 3), series(0, 4, 8, start_s=100.0)
    assert covered_s([old, new], 50.0) == 10.0
    assert covered_s([old, new], 4.0) == 110.0


def test_the_gap_is_the_usual_distance_not_the_longest() -> None:
    late = Series(name="x", labels={}, times=[0, 5, 10, 40, 45], values=[0] * 5)
    assert scrape_gap_s([series(1), late]) == 5.0
    assert scrape_gap_s([series(1)]) is None
    assert scrape_gap_s([]) is None


def test_dead_series_are_not_live() -> None:
    alive, dead = series(1, 2, 3, start_s=90.0), series(1, 2, 3, start_s=70.0)
    assert live([alive, dead], 100.0, 5.0) == [alive]


@pytest.mark.parametrize(
    ("ready_since_s", "instances", "gap_s", "missing"),
    [
        pytest.param((0.0, 0.0), ("a", "b"), 5.0, 0, id="both scraped"),
        pytest.param((0.0, 0.0), ("a", "a"), 5.0, 1, id="two series of one pod are one pod"),
        pytest.param((0.0, 0.0), (), 5.0, 2, id="none scraped"),
        pytest.param((), ("a",), 5.0, 0, id="one that is scraped before it is Ready"),
        pytest.param((0.0, 86.0), ("a",), 5.0, 0, id="Ready for less than three gaps: not yet missing"),
        pytest.param((0.0, 84.0), ("a",), 5.0, 1, id="Ready for more than three gaps"),
        pytest.param((0.0, 91.0), ("a",), 1.0, 0, id="short gaps: Prometheus takes 5 s to take up a target"),
        pytest.param((0.0, 60.0), ("a",), None, 0, id="unknown gap: as of the default"),
    ],
)
def test_ready_pods_that_no_series_speaks_for(
    ready_since_s: tuple[float, ...], instances: tuple[str, ...], gap_s: float | None, missing: int
) -> None:
    alive = [series(1.0, start_s=100.0, instance=name) for name in instances]
    assert unscraped(ready_since_s, alive, 100.0, gap_s) == missing


def test_mean_of_a_gauge() -> None:
    assert mean_since(series(9, 2, 4), 4.0) == 3.0
    assert mean_since(series(9, 2, 4), 99.0) == 4.0


@pytest.mark.parametrize(
    ("gap_s", "recent_s", "rate_s", "full_s"),
    [(1.0, 10.0, 60.0, 120.0), (5.0, 10.0, 60.0, 200.0), (15.0, 30.0, 60.0, 600.0), (30.0, 60.0, 120.0, 600.0)],
)
def test_windows_grow_with_the_scrape_gap(gap_s: float, recent_s: float, rate_s: float, full_s: float) -> None:
    w = windows(gap_s)
    assert (w.recent_s, w.rate_s, w.full_s) == (recent_s, rate_s, full_s)


def engine(pod: str, *steps: float, start_s: float = 0.0, kind: str = "decode") -> list[Series]:
    """A pod's counters after so many steps, each step 10 ms, x = (1, ...) with 2 decodes."""
    labels = {"kind": kind, "instance": pod, names.POOL: "decode"}
    rows = (
        (names.STEPS, 1.0, {}),
        (names.STEP_SECONDS, 0.01, {}),
        (names.STEP_XX, 1.0, {"i": "one", "j": "one"}),
        (names.STEP_XX, 2.0, {"i": "one", "j": "decodes"}),
        (names.STEP_XY, 0.02, {"i": "decodes"}),
        (names.STEP_XY, 9.99, {"i": "a_feature_of_a_newer_engine"}),
    )
    return [
        series(*(each * s for s in steps), start_s=start_s, name=name, **labels, **extra) for name, each, extra in rows
    ]


def test_steps_of_pods_add_up() -> None:
    (got,) = step_stats([*engine("a", 100, 200, 300), *engine("b", 50, 60, 70, start_s=1.7)], -1.0)
    assert (got.kind, got.steps, got.seconds) == ("decode", 220.0, pytest.approx(2.2))
    assert got.xx == {(0, 0): 220.0, (0, 4): 440.0}
    assert got.xy == {4: pytest.approx(4.4)}


def test_first_steps_of_a_process_are_left_out() -> None:
    (got,) = step_stats(engine("a", 0, 5, 25, 125), -1.0)
    assert FIRST_STEPS == 20.0
    assert got.steps == 100.0


def test_a_restart_splits_and_its_first_steps_are_left_out_too() -> None:
    """300 -> 400, then a new process: 5, 30, 90."""
    (got,) = step_stats(engine("a", 300, 400, 5, 30, 90), -1.0)
    assert got.steps == 160.0
    assert got.xx[(0, 4)] == 320.0


def test_pods_that_appear_and_vanish_count_while_they_were_there() -> None:
    (got,) = step_stats([*engine("old", 100, 200), *engine("new", 20, 50, start_s=60.0)], -1.0)
    assert got.steps == 130.0


def test_a_kind_that_appears_late_started_at_zero() -> None:
    late = engine("a", 40, start_s=10.0, kind="mixed")
    got = {s.kind: s.steps for s in step_stats([*engine("a", 100, 110, 120), *late], -1.0)}
    assert got == {"decode": 20.0, "mixed": 40.0}


def test_samples_before_the_window_are_not_used() -> None:
    (got,) = step_stats(engine("a", 100, 200, 300, 400), 9.0)
    assert got.steps == 100.0


def test_no_steps_is_no_statistics() -> None:
    assert step_stats(engine("a", 100, 100), -1.0) == ()
    assert step_stats(engine("a", 100), -1.0) == ()
    assert step_stats([], -1.0) == ()


def test_limits_are_the_smallest_of_the_live_engines() -> None:
    pool = PoolSeen(pool=Pool.DECODE, desired=2, ready=2, starting=0, draining=0, unschedulable=0)
    gauges = [
        series(900, 900, start_s=90.0, name=names.KV_TOKENS, pool="decode", instance="a"),
        series(800, 800, start_s=90.0, name=names.KV_TOKENS, pool="decode", instance="b"),
        series(100, 100, start_s=10.0, name=names.KV_TOKENS, pool="decode", instance="dead"),
        series(1, 1, start_s=90.0, name=names.KV_TOKENS, pool="prefill", instance="c"),
        series(2, 3, start_s=90.0, name=names.WAITING, pool="decode", instance="a"),
        series(4, 5, start_s=90.0, name=names.WAITING, pool="decode", instance="b"),
    ]
    got = engines_seen(pool, gauges, 95.0, 5.0, windows(5.0))
    assert got.limits is not None
    assert (got.limits.kv_tokens, got.limits.tile_tokens) == (800.0, None)
    assert (got.waiting, got.running_decodes) == (8.0, None)
