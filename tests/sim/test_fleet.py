"""Laws of the simulated service: nothing is lost, nothing comes twice, the same seed gives the same bytes."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from llmservice_core.latency import Work
from llmservice_core.model import Pool
from llmservice_sim.engine import EngineLimits
from llmservice_sim.engines import engine_of
from llmservice_sim.fleet import Fleet
from llmservice_sim.fleet_requests import Outcome
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.fleet_settings import Link, Mishaps, Replica, StartUp
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import Hpa, Rad
from llmservice_sim.report_data import as_data
from llmservice_sim.run import run as run_one
from tests.sim.fleets import LOOSE, SPLIT, STRICT, fixed, goal, poisson, run, scenario, step_s

MIXED = (Pool.MIXED,)
POLICIES = ["fcfs", "slai", "slai-plus", "edf"]


def whole(result: FleetResult) -> list[int]:
    """Checks of every run: each request ended once, its tokens and gaps are all there. Indices of those that failed."""
    for r in result.requests:
        assert r.outcome is not None
        assert r.ended_s is not None
        assert r.ended_s >= r.asked.time_s
        if r.outcome is Outcome.OK:
            assert r.tokens == r.asked.output_tokens
            assert r.gaps == r.asked.output_tokens - 1
            assert r.first_token_s is not None
    for c in result.classes:
        own = [r for r in result.requests if r.service_class.name == c.name]
        assert sum(c.outcomes.values()) == c.requests == len(own)
        assert len(result.gaps_s[c.name]) == sum(r.gaps for r in own)
    return [i for i, r in enumerate(result.requests) if r.outcome is not Outcome.OK]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("pools", [SPLIT, MIXED])
def test_every_request_ends_once_with_all_its_tokens(policy: str, pools: tuple[Pool, ...]) -> None:
    assert whole(run(scenario(goal(pools), policy=policy), poisson(8, 60, 1))) == []


def test_the_router_s_and_the_engines_counts_add_up() -> None:
    trace = poisson(8, 60, 2)
    wanted = scenario(goal())
    fleet = Fleet(wanted, Rad(wanted.goal))
    result = fleet.run(trace)
    whole(result)
    counts = fleet._router.counters
    for name in ("strict", "loose"):
        own = [a for a in trace if a.service_class == name]
        found = list(counts.counts[name].values())
        prompts, outputs = sum(a.prompt_tokens for a in own), sum(a.output_tokens for a in own)
        assert found == [len(own), prompts, len(own), 0, outputs, len(own)]
        assert counts.ttft[name][0] == len(own)
    assert counts.waiting_prompt_tokens == 0
    computed = dict.fromkeys(SPLIT, 0.0)
    for pod in fleet._cluster.everyone():
        assert pod.process is not None
        computed[pod.pool] += sum(kind.xx[2] for kind in pod.process.counters.kinds.values())
    assert computed[Pool.PREFILL] == pytest.approx(sum(a.prompt_tokens for a in trace) / 1000)
    assert computed[Pool.DECODE] == pytest.approx(sum(a.output_tokens for a in trace) / 1000)
    for pod in fleet._cluster.everyone():
        assert not pod.parts
        assert pod.prompt_tokens == 0
        assert pod.reserved_tokens == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("pools", [SPLIT, MIXED])
def test_crashes_and_full_nodes_lose_no_request_without_saying_so(pools: tuple[Pool, ...]) -> None:
    mishaps = Mishaps(crash_every_s=40.0, cluster_gpus=3)
    result = run(scenario(goal(pools), mishaps=mishaps, start_up=StartUp(mean_s=15.0)), poisson(8, 120, 3))
    failed = whole(result)
    seen = Counter(r.outcome for r in result.requests)
    assert 0 < len(failed) < len(result.requests) / 2
    assert seen[Outcome.OK] + seen[Outcome.FAILED] + seen[Outcome.SHED] == len(result.requests)
    assert max(m.gpus for m in result.moments) <= 3


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not() -> None:
    def bytes_of(seed: int) -> str:
        settings = scenario(goal(), seed=seed, mishaps=Mishaps(crash_every_s=60.0))
        return json.dumps(as_data(goal(), run(settings, poisson(8, 90, 4))))

    assert bytes_of(1) == bytes_of(1)
    assert bytes_of(1) != bytes_of(2)


def test_one_request_takes_the_time_of_its_parts() -> None:
    """Prompt of two chunks, its KV over the link, the last prompt token again, then one step for each token."""
    link = Link(latency_s=0.25, bytes_per_s=1e9)
    asked = Arrival(time_s=1.0, prompt_tokens=600, output_tokens=3, service_class="strict", tbt_s=0.05)
    result = run(scenario(goal(), link=link), [asked])
    (request,) = result.requests
    prefill_s = step_s(Work(new_tokens=512, chunks=1)) + step_s(Work(new_tokens=88, chunks=1))
    transfer_s = 0.25 + 600 * 131072 / 1e9
    token_s = step_s(Work(decodes=1))
    assert request.ttft_s == pytest.approx(prefill_s + transfer_s + token_s)
    assert list(result.gaps_s["strict"]) == pytest.approx([token_s, token_s])
    assert result.end_s == pytest.approx(1.0 + prefill_s + transfer_s + 3 * token_s)


def test_too_long_a_request_is_refused_and_no_event() -> None:
    asked = [
        Arrival(time_s=t, prompt_tokens=p, output_tokens=2, service_class="strict") for t, p in ((0.0, 999), (1.0, 900))
    ]
    result = run(scenario(goal(), max_context_tokens=1000), asked)
    assert [r.outcome for r in result.requests] == [Outcome.REFUSED, Outcome.OK]
    assert result.classes[0].ttft_share == 1.0


@pytest.mark.parametrize("load", [0.5, 0.75])
def test_waiting_for_one_prefill_engine_is_that_of_m_d_1(load: float) -> None:
    """Prompts of exactly one step, Poisson arrivals: mean wait = load x service / (2 (1 - load))."""
    service_s = 0.1

    def round_step_s(work: Work) -> float:
        return service_s if work.chunks else 1e-6

    limits = EngineLimits(max_batched_tokens=512, max_seqs=64, kv_blocks=4000)
    replica = Replica(step_time=round_step_s, limits=limits, kv_bytes_per_token=1)
    link = Link(latency_s=0.0, bytes_per_s=1e15)
    trace = poisson(load / service_s, 1500, 5, prompt=(512, 512), output=(1, 1))
    settings = scenario(goal(), replica=replica, link=link, policy="fcfs")
    result = run(settings, trace, fixed({Pool.PREFILL: 1, Pool.DECODE: 1}))
    waits = [r.ttft_s - service_s for r in result.requests if r.ttft_s is not None]
    expected_s = load * service_s / (2 * (1 - load))
    assert sum(waits) / len(waits) == pytest.approx(expected_s, rel=0.1)


def test_the_planner_grows_under_a_step_of_load_and_keeps_the_budget() -> None:
    quiet, busy = poisson(1, 120, 6), poisson(25, 150, 7)
    later = [replace(a, time_s=a.time_s + 120) for a in busy]
    result = run(scenario(goal(budget=5)), quiet + later)
    whole(result)
    assert max(m.gpus for m in result.moments) <= 5
    before = [sum(m.desired.values()) for m in result.moments if m.time_s <= 120]
    after = [sum(m.desired.values()) for m in result.moments if 165 < m.time_s <= 270]
    assert max(before) == 2
    assert max(after) > 2
    assert {d.reason for d in result.decisions} & {"DemandUp", "Backlog", "SLOMiss"}


def test_pools_shrink_again_and_gpus_are_paid_until_pods_are_gone() -> None:
    trace = poisson(25, 200, 8) + [
        Arrival(time_s=200 + 5.0 * i, prompt_tokens=100, output_tokens=5, service_class="strict") for i in range(80)
    ]
    result = run(scenario(goal()), trace)
    most = max(sum(m.desired.values()) for m in result.moments)
    assert most > 2
    assert sum(result.moments[-1].desired.values()) < most
    paid_s = 3600 * result.total_gpu_hours
    decided_s = sum(15.0 * sum(m.desired.values()) for m in result.moments)
    assert paid_s == pytest.approx(decided_s, rel=0.1)


def test_hpa_counts_requests_in_flight() -> None:
    settings = scenario(goal(budget=6))
    law = Hpa(settings.goal, {Pool.PREFILL: 1.0, Pool.DECODE: 8.0})
    result = run(settings, poisson(20, 120, 9), law)
    whole(result)
    assert 2 < max(m.gpus for m in result.moments) <= 6


def test_a_service_without_engines_sheds() -> None:
    settings = scenario(goal(), initial={Pool.PREFILL: 0, Pool.DECODE: 0}, start_up=StartUp(mean_s=500.0))
    result = run(settings, poisson(2, 20, 10), fixed({Pool.PREFILL: 1, Pool.DECODE: 1}))
    assert {r.outcome for r in result.requests} == {Outcome.SHED}
    assert result.classes[0].ttft_share == 0.0
    assert STRICT.name == result.classes[0].name


@pytest.mark.parametrize("policy", POLICIES)
def test_one_mixed_replica_is_the_single_engine_of_the_other_tests(policy: str) -> None:
    """That one is compared with vLLM's scheduler batch for batch and with a real card."""
    settings = scenario(goal(MIXED), policy=policy)
    trace = poisson(6, 60, 11)
    fleet = run(settings, trace, fixed({Pool.MIXED: 1}))
    alone = run_one(trace, engine_of(policy, settings.replica.limits, step_s), step_s)
    assert [r.ttft_s for r in fleet.requests] == pytest.approx([j.ttft_seen_s for j in alone.jobs])
    assert fleet.steps == alone.steps
    assert sum(map(sum, fleet.gaps_s.values())) == pytest.approx(sum(sum(j.gaps_s) for j in alone.jobs))


def test_with_the_routers_queue_engines_hold_two_steps_and_every_request_still_ends_whole() -> None:
    settings = scenario(goal()).with_router_queue()
    trace, sizes = poisson(25, 20, 5), fixed({Pool.PREFILL: 1, Pool.DECODE: 2})
    result = run(settings, trace, sizes)
    assert whole(result) == []
    assert settings.room.tokens == 2 * settings.replica.limits.max_batched_tokens
    waits = {name: p95_s(result, name) for name in (STRICT.name, LOOSE.name)}
    assert waits[STRICT.name] < 0.5 * waits[LOOSE.name], "the strict class goes first in the line"


def p95_s(result: FleetResult, name: str) -> float:
    waits = sorted(r.ttft_s for r in result.requests if r.service_class.name == name and r.ttft_s is not None)
    return waits[int(0.95 * len(waits))]
