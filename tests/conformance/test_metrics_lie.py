"""What metrics do to an autoscaler: absent, doubled, old, reset, of the dead.

Each case drives the operator's observation and the planner in virtual time (world.py); what it is compared with is the
same service without the disturbance. docs/conformance.md names the public bug behind each.
"""

from typing import Any

import pytest

from llmservice_core import metric_names as names
from llmservice_core.model import Pool, Reason
from tests.conformance import world
from tests.conformance.world import Row, Run, Tamper, during, goal, load, run, scenario, unreachable

END_S = 840.0
BUSY = (180.0, 510.0)
"""Between a quiet start and a quiet end: 2.5 instead of 0.5 requests/s, which need two or three prefill replicas."""
TRAFFIC = load((BUSY[0], 0.5), (BUSY[1], 2.5), (END_S, 0.5))
COUNTERS = (names.ARRIVALS, names.PROMPTS, names.PROMPT_TOKENS, names.OUTPUT_TOKENS, names.ANSWERS, names.SLO_EVENTS)


def disturbed(*tampers: Tamper, **more: Any) -> Run:
    return run(scenario(goal()), TRAFFIC, END_S, tampers=tampers, **more)


@pytest.fixture(scope="module")
def quiet() -> Run:
    """Nothing disturbs it."""
    found = disturbed()
    assert found.at(240.0).sizes()[Pool.PREFILL] >= 2, "the load needs more than the minimum"
    return found


def sizes(found: Run) -> list[dict[Pool, int]]:
    return [t.sizes() for t in found.ticks]


def demand(found: Run) -> float:
    """Requests/s on average while it is busy, as observed."""
    rates = [sum(c.arrivals_rps or 0.0 for c in t.seen.classes) for t in found.between(300.0, 500.0)]
    return sum(rates) / len(rates)


def test_pools_return_to_their_minimum(quiet: Run) -> None:
    """No floor of what was needed once."""
    assert quiet.at(END_S).sizes() == {Pool.PREFILL: 1, Pool.DECODE: 1}


def test_long_prompts_grow_prefill_alone(quiet: Run) -> None:
    assert max(quiet.sizes(Pool.PREFILL)) >= 2
    assert max(quiet.sizes(Pool.DECODE)) == 1


def test_nan_at_zero_traffic() -> None:
    """Traffic ends altogether, and an exporter makes NaN of what it divides: counted zero is known, and scales down."""

    def nan(now_s: float, rows: list[Row]) -> list[Row]:
        poisoned = [
            {**r, "values": [[t, "NaN"] for t, _ in r["values"]]} for r in rows if names.POOL not in r["metric"]
        ]
        return [*rows, *({**r, "metric": {**r["metric"], "instance": "ratios"}} for r in poisoned)]

    trace = load((BUSY[0], 0.5), (BUSY[1], 2.5))
    found = run(scenario(goal()), trace, END_S, tampers=[nan])
    assert max(found.sizes(Pool.PREFILL)) >= 2
    last = found.at(END_S - 20.0)
    assert last.sizes() == {Pool.PREFILL: 1, Pool.DECODE: 1}
    assert last.seen.classes[0].arrivals_rps == 0.0
    assert last.plan.reason not in (Reason.METRICS_MISSING, Reason.METRICS_STALE)


def test_a_gap_of_five_minutes(quiet: Run) -> None:
    """While nothing is known the sizes hold; what is decided after it is what would have been decided."""
    gap = (405.0, 705.0)
    found = disturbed(during(*gap, unreachable))
    held = found.between(gap[0], gap[1] - 15.0)
    assert {t.plan.reason for t in held} == {Reason.METRICS_MISSING}
    assert {tuple(t.sizes().values()) for t in held} == {tuple(found.at(gap[0] - 1.0).sizes().values())}
    assert "cannot be reached" in held[0].plan.message
    assert found.at(gap[0] - 1.0).sizes() == quiet.at(gap[0] - 1.0).sizes()
    assert found.at(END_S).sizes() == quiet.at(END_S).sizes()


def test_an_empty_answer_is_not_zero() -> None:
    """Prometheus is up and has lost its targets: no series, which a sum over nothing would call 0."""
    found = disturbed(during(405.0, 495.0, lambda now_s, rows: []))
    held = found.between(405.0, 490.0)
    assert {t.plan.reason for t in held} == {Reason.METRICS_MISSING}
    assert {t.sizes()[Pool.PREFILL] for t in held} == {found.at(404.0).sizes()[Pool.PREFILL]}


def test_counter_resets(quiet: Run) -> None:
    """The router's process starts anew in the middle of the load: its counters begin at 0."""
    at_s = 300.0
    stood_at: dict[str, float] = {}

    def reset(now_s: float, rows: list[Row]) -> list[Row]:
        return [_reset(r, at_s, stood_at) if r["metric"]["__name__"] in COUNTERS else r for r in rows]

    found = disturbed(reset)
    assert sizes(found) == sizes(quiet)
    assert stood_at, "counters were reset"
    for mine, theirs in zip(found.between(at_s, END_S), quiet.between(at_s, END_S), strict=True):
        assert mine.seen.classes[0].arrivals_rps == pytest.approx(theirs.seen.classes[0].arrivals_rps, rel=0.2)


def _reset(row: Row, at_s: float, stood_at: dict[str, float]) -> Row:
    """Less what the counter stood at when its process ended, which is kept for answers that begin after it."""
    key = str(sorted(row["metric"].items()))
    before = [v for t, v in row["values"] if t < at_s]
    if before:
        stood_at[key] = before[-1]
    base = stood_at.get(key, 0.0)
    return {**row, "values": [[t, v if t < at_s else v - base] for t, v in row["values"]]}


def test_series_of_dead_pods(quiet: Run) -> None:
    """A pod died with a long queue; its last samples stay in the window for ten minutes and count for nothing."""

    def ghost(now_s: float, rows: list[Row]) -> list[Row]:
        died_s = 170.0
        metric = {names.POOL: "decode", "pod": "ghost", "instance": "ghost"}
        values = [[t, "5000"] for t in (died_s - 15.0, died_s) if now_s - 600.0 < t <= now_s]
        gauges = [(names.WAITING, {}), (names.RUNNING, {"phase": "decode"})]
        return [*rows, *({"metric": {"__name__": n, **metric, **own}, "values": values} for n, own in gauges if values)]

    found = disturbed(ghost)
    assert set(found.sizes(Pool.DECODE, 300.0)) == set(quiet.sizes(Pool.DECODE, 300.0)) == {1}
    assert all((t.seen.pools[1].waiting or 0.0) < 5000 for t in found.between(225.0, END_S))


def test_first_samples_of_cold_pods(quiet: Run) -> None:
    """New engines compile in their first steps, 60 s in all: no capacity is learned from that."""

    def cold(now_s: float, rows: list[Row]) -> list[Row]:
        return [_slow(r) if r["metric"].get("pod") not in ("prefill-1", "decode-2") else r for r in rows]

    found = disturbed(cold)
    assert sizes(found) == sizes(quiet)


def _slow(row: Row) -> Row:
    """A minute more on the clock of each kind of step, since the process's first one."""
    metric = row["metric"]
    is_time = metric["__name__"] == names.STEP_SECONDS or (
        metric["__name__"] == names.STEP_XY and metric["i"] == names.FEATURES[0]
    )
    return {**row, "values": [[t, v + 60.0] for t, v in row["values"]]} if is_time else row


def test_two_prometheus_replicas(quiet: Run) -> None:
    """Both replicas of a highly available Prometheus answer: every series twice, told apart by a label of theirs."""

    def twice(now_s: float, rows: list[Row]) -> list[Row]:
        return [{**r, "metric": {**r["metric"], "prometheus_replica": name}} for name in "ab" for r in rows]

    assert sizes(disturbed(twice)) == sizes(quiet)


def test_two_scrape_jobs(quiet: Run) -> None:
    """A PodMonitor and an annotation find the same pods: every target twice, a few seconds apart."""

    def jobs(now_s: float, rows: list[Row]) -> list[Row]:
        late = [{**r, "values": [[t + 0.4, v] for t, v in r["values"] if t + 0.4 <= now_s]} for r in rows]
        named = [("podmonitor", rows), ("annotations", [r for r in late if r["values"]])]
        return [{**r, "metric": {**r["metric"], "job": job}} for job, found in named for r in found]

    found = disturbed(jobs)
    assert demand(found) == pytest.approx(demand(quiet), rel=0.1)
    assert abs(max(found.sizes(Pool.PREFILL)) - max(quiet.sizes(Pool.PREFILL))) <= 1, "half a second older at most"
    assert found.at(END_S).sizes() == quiet.at(END_S).sizes()


def test_prometheus_restarts_without_its_history(quiet: Run) -> None:
    """Only samples since its start are there: no reason to shrink, and soon the same sizes."""
    at_s = 420.0

    def young(now_s: float, rows: list[Row]) -> list[Row]:
        if now_s < at_s:
            return rows
        kept = [{**r, "values": [[t, v] for t, v in r["values"] if t >= at_s]} for r in rows]
        return [r for r in kept if r["values"]]

    found = disturbed(young)
    before = found.at(at_s - 1.0).sizes()
    assert all(t.sizes()[p] >= before[p] for t in found.between(at_s, at_s + 60.0) for p in before)
    assert found.at(END_S).sizes() == quiet.at(END_S).sizes()


def test_every_second_scrape_fails(quiet: Run) -> None:
    """Rates are of the time between samples, not of a number of samples."""

    def lossy(now_s: float, rows: list[Row]) -> list[Row]:
        return [{**r, "values": r["values"][::-2][::-1]} for r in rows]

    found = disturbed(lossy)
    assert demand(found) == pytest.approx(demand(quiet), rel=0.1)
    assert max(found.sizes(Pool.PREFILL)) <= max(quiet.sizes(Pool.PREFILL)) + 1, "it sees the load half a minute later"
    assert found.at(END_S).sizes() == quiet.at(END_S).sizes()


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_the_operator_s_clock_jumps(quiet: Run, jump_s: float) -> None:
    """An hour forth or back for two minutes: nothing shrinks meanwhile, and afterwards all is as before."""
    jump = (405.0, 525.0)
    found = disturbed(clock=lambda now_s: now_s + jump_s if jump[0] <= now_s < jump[1] else now_s)
    before = found.at(jump[0] - 1.0).sizes()
    assert all(t.sizes()[p] >= before[p] for t in found.between(*jump) for p in before)
    assert found.at(END_S).sizes() == quiet.at(END_S).sizes()


def test_a_queue_that_averages_hide() -> None:
    """A burst of seven times the load: the queue itself asks for replicas, not only the rate."""
    trace = load((180.0, 0.5), (240.0, 6.0), (700.0, 0.5))
    found = run(scenario(goal()), trace, 700.0)
    assert max(found.sizes(Pool.PREFILL, 180.0, 285.0)) >= 3
    assert found.at(600.0).seen.waiting_prompt_tokens == pytest.approx(0.0, abs=2000)
    assert any("wait" in s.why for t in found.between(195.0, 330.0) for s in t.plan.steps if s.name == "backlog")


def test_longer_prompts_at_the_same_rate() -> None:
    """Requests are no unit of work: the same number of them, each sixteen times as long, needs more replicas."""
    short = [world.resized(a, 40) for a in load((300.0, 1.2))]
    long = [world.resized(a, 640) for a in load((700.0, 1.2)) if a.time_s >= 300.0]
    found = run(scenario(goal()), short + long, 700.0)
    assert set(found.sizes(Pool.PREFILL, 0.0, 300.0)) == {1}
    assert found.at(600.0).sizes()[Pool.PREFILL] >= 2
