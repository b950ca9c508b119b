"""What the cluster does to an autoscaler: no node, too small a budget, slow pods. As test_metrics_lie.py."""

from dataclasses import replace
from itertools import pairwise

from llmservice_core.model import Pool, Reason
from llmservice_sim.fleet_settings import Mishaps, StartUp
from tests.conformance.world import changes, goal, load, resized, run, scenario

BOTH_ONE = {Pool.PREFILL: 1, Pool.DECODE: 1}


def test_an_unschedulable_pod_for_an_hour() -> None:
    """Two GPUs exist and three are wanted: one pod waits for a node most of an hour, nothing joins it, and it goes when
    the load is gone."""
    trace = [resized(a, 2000) for a in load((300.0, 0.1), (4200.0, 0.4), (4800.0, 0.05))]
    found = run(scenario(goal(interval_s=60.0), mishaps=Mishaps(cluster_gpus=2)), trace, 4800.0)
    waiting = [t.seen.pools[0].unschedulable for t in found.between(600.0, 4200.0)]
    assert sum(n == 1 for n in waiting) > len(waiting) / 2
    assert max(waiting) <= 2
    assert max(found.sizes(Pool.PREFILL)) <= 3
    assert found.at(4800.0).sizes() == BOTH_ONE


def test_a_budget_smaller_than_the_need() -> None:
    """Five GPUs are needed and three allowed: never more than three asked for, none idle, and the reason says so."""
    wanted = goal(budget=3)
    found = run(scenario(wanted), load((150.0, 0.5), (600.0, 6.0)), 600.0)
    assert max(sum(t.sizes().values()) for t in found.ticks) == 3
    late = found.between(330.0, 600.0)
    assert {p.reason for t in late for p in t.plan.pools} & {Reason.BUDGET_LIMITED}
    assert all(n >= 1 for t in found.ticks for n in t.sizes().values())


def test_at_a_full_budget_a_gpu_moves_to_who_needs_it() -> None:
    """First long prompts, then long answers: the budget is full all the time, and decode gets what prefill lets go."""
    prompts = [replace(resized(a, 700), output_tokens=2) for a in load((420.0, 2.2))]
    answers = [replace(resized(a, 20), output_tokens=400) for a in load((900.0, 1.6), seed=1) if a.time_s >= 420.0]
    found = run(scenario(goal(budget=3), start_up=StartUp(mean_s=30.0, cv=0.0)), prompts + answers, 900.0)
    assert found.at(400.0).sizes() == {Pool.PREFILL: 2, Pool.DECODE: 1}
    assert found.at(880.0).sizes() == {Pool.PREFILL: 1, Pool.DECODE: 2}
    assert max(sum(t.sizes().values()) for t in found.ticks) == 3


def test_no_flapping_at_the_edge_of_a_replica() -> None:
    """Half an hour at a load where one replica is a little too few and two are too many: a pod that was asked for stays
    for a start-up time at least, and sizes change no more than every three minutes on average."""
    start_up_s = 45.0
    found = run(scenario(goal(), start_up=StartUp(mean_s=start_up_s, cv=0.0)), load((1800.0, 1.75)), 1800.0)
    assert changes(found.sizes(Pool.PREFILL)) <= 10
    assert changes(found.sizes(Pool.DECODE)) <= 2
    steps = [(t.time_s, t.sizes()[Pool.PREFILL]) for t in found.ticks]
    grown = [t for (_, a), (t, b) in pairwise(steps) if b > a]
    shrunk = [t for (_, a), (t, b) in pairwise(steps) if b < a]
    assert grown, "the load is at the edge"
    assert all(down - up >= start_up_s for up in grown for down in shrunk if down > up)


def test_one_burst_starts_its_pods_once() -> None:
    """Pods on their way count: in two minutes of start-up nobody asks for them again."""
    slow = scenario(goal(), start_up=StartUp(mean_s=120.0, cv=0.0))
    found = run(slow, load((180.0, 0.5), (600.0, 2.2)), 600.0)
    first_s = next(t.time_s for t in found.ticks if t.sizes()[Pool.PREFILL] > 1)
    starting = found.sizes(Pool.PREFILL, first_s, first_s + 120.0)
    assert starting == sorted(starting)
    assert starting[-1] <= 4
