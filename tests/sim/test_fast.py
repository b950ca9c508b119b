"""Fast against exact: the same attainment, first tokens and GPU-hours on named cases, within 3 %."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmservice_cli.service_file import load
from llmservice_core.model import Plan, Pool, Reason
from llmservice_core.slack import SHARE
from llmservice_sim.fast_fleet import FastFleet, FidelityError, fleet_of
from llmservice_sim.fleet import Fleet
from llmservice_sim.fleet_requests import Outcome
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.fleet_settings import Mishaps, Scenario, StartUp
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import Sizing, View, law_of
from llmservice_sim.report_data import as_data
from llmservice_sim.workload import Cut, arrivals, rows_of, sample_path
from tests.sim.fleets import SPLIT, fixed, goal, poisson, scenario
from tests.sim.test_fleet import whole

P, D = SPLIT
ROOT = Path(__file__).parents[2]
CHAT = ROOT / "bench/data/servegen/m-large_windows.csv.gz"
REASON = ROOT / "bench/data/servegen/deepseek-r1_windows.csv.gz"
DAY_7 = 7 * 86_400.0
CODE = ROOT / "bench/data/azure-2023/code_0-40min.csv.gz"
WITHIN = 0.03
LOOSER = {"overloaded prefill pods": 0.05, "bursts of code": 0.05}
"""Median TTFT there is 4.4 and 3.1 % off, for prefill pods are overloaded most of the time; all else within 3 %."""
Case = tuple[Path | None, Cut, str, dict[Pool, int], str]
"""Trace, part of it, law, sizes at the start, policy."""

CASES: dict[str, Case] = {
    "steady, fixed sizes": (CHAT, Cut(start_s=DAY_7, seconds=300, rate_rps=20), "static", {P: 4, D: 2}, "slai"),
    "steady, slai-plus": (CHAT, Cut(start_s=DAY_7, seconds=300, rate_rps=20), "static", {P: 4, D: 2}, "slai-plus"),
    "long answers": (REASON, Cut(start_s=20000, seconds=300, rate_rps=2), "static", {P: 1, D: 2}, "slai"),
    "many long answers": (REASON, Cut(start_s=20000, seconds=200, rate_rps=6), "static", {P: 2, D: 3}, "slai"),
    "from one of each": (CHAT, Cut(start_s=DAY_7, seconds=600, rate_rps=10), "rad", {P: 1, D: 1}, "slai"),
    "decode grows late": (None, Cut(seconds=400, rate_rps=20), "rad", {P: 2, D: 1}, "slai"),
    "first come, first served": (None, Cut(seconds=400, rate_rps=3), "static", {P: 1, D: 1}, "fcfs"),
    "pods that follow requests": (None, Cut(seconds=400, rate_rps=12), "hpa", {P: 2, D: 1}, "slai"),
    "overloaded prefill pods": (None, Cut(seconds=200, rate_rps=30), "static", {P: 2, D: 2}, "slai"),
    "bursts of code": (CODE, Cut(seconds=600, rate_rps=6), "rad", {P: 2, D: 1}, "slai"),
}


def both(name: str, takes: bool = False) -> tuple[FleetResult, FleetResult]:
    """`takes`: decode engines compute prompts, too, which the fast fidelity has coarser."""
    path, cut, law, sizes, policy = CASES[name]
    service = load(str(ROOT / "examples/chat.yaml"), "a100", policy)
    trace = arrivals(rows_of(path or sample_path(), cut, 0), service.goal.classes, {}, 0)
    wanted = replace(service.goal, decode_takes_prefill=takes)
    settings = Scenario(
        goal=wanted, replica=service.replica, policy=policy, initial=sizes, start_up=StartUp(mean_s=60.0, cv=0.0)
    )
    exact, fast = (fleet_of(f)(settings, law_of(law, wanted, sizes, {})).run(trace) for f in ("exact", "fast"))
    return exact, fast


def close(fast: float | None, exact: float | None, within: float = WITHIN) -> bool:
    if fast is None or exact is None:
        return fast is exact
    return abs(fast - exact) <= within * exact


@pytest.mark.parametrize("name", CASES)
def test_fast_is_exact_within_three_per_cent(name: str) -> None:
    exact, fast = both(name)
    assert close(fast.total_gpu_hours, exact.total_gpu_hours)
    for f, e in zip(fast.classes, exact.classes, strict=True):
        found = {
            "ttft": (f.ttft_share, e.ttft_share),
            "tbt": (f.tbt_share, e.tbt_share),
            "p50": (f.ttft_p50_s, e.ttft_p50_s, LOOSER.get(name, WITHIN)),
            "p95": (f.ttft_p95_s, e.ttft_p95_s),
            "gap": (f.tbt_p50_s, e.tbt_p50_s),
        }
        assert {what: row for what, row in found.items() if not close(*row)} == {}
        assert f.tokens == e.tokens


@pytest.mark.parametrize("name", ["decode grows late"])
def test_prompts_on_decode_engines_are_coarser_and_never_faster(name: str) -> None:
    """In the fast fidelity all decodes ride in each mixed step, so first tokens come later: 17 % in the median here."""
    exact, fast = both(name, takes=True)
    assert close(fast.total_gpu_hours, exact.total_gpu_hours)
    for f, e in zip(fast.classes, exact.classes, strict=True):
        assert close(f.ttft_share, e.ttft_share)
        assert close(f.tbt_share, e.tbt_share)
        assert close(f.ttft_p50_s, e.ttft_p50_s, 0.25)
        assert close(f.tbt_p50_s, e.tbt_p50_s, 0.06)
        assert f.tokens == e.tokens
    assert any(r.is_beside for r in fast.requests)
    assert any(r.is_beside for r in exact.requests)


def test_every_request_ends_once_and_crashes_lose_some() -> None:
    settings = scenario(goal(), mishaps=Mishaps(crash_every_s=40.0, cluster_gpus=3), start_up=StartUp(mean_s=15.0))
    result = FastFleet(settings, law_of("rad", settings.goal, {}, {})).run(poisson(8, 120, 3))
    for r in result.requests:
        assert r.outcome is not None
        if r.outcome is Outcome.OK:
            assert r.tokens == r.asked.output_tokens
    assert any(r.outcome is Outcome.FAILED for r in result.requests)


def test_one_request_takes_the_same_time() -> None:
    asked = [Arrival(time_s=1.0, prompt_tokens=600, output_tokens=3, service_class="strict", tbt_s=0.05)]
    exact, fast = (f(scenario(goal()), fixed({P: 1, D: 1})).run(asked) for f in (Fleet, FastFleet))
    assert fast.requests[0].ttft_s == pytest.approx(exact.requests[0].ttft_s)
    assert fast.end_s == pytest.approx(exact.end_s)


def beside(fleet: type[Fleet], trace: list[Arrival]) -> FleetResult:
    """With slack published from the first plan on."""

    class Publishing:
        name = "static"

        def decide(self, view: View) -> Sizing:
            capacity: dict[str, float | None] = {SHARE: 1.0}
            made = Plan(time_s=0.0, pools=(), reason=Reason.STEADY, message="", capacity=capacity)
            return Sizing(sizes={P: 1, D: 1}, plan=made)

    return fleet(scenario(goal()), Publishing()).run(trace)


def test_a_prompt_beside_decodes_takes_the_same_time() -> None:
    """At 20 s: 450 tokens for the prefill engine, then 60 for it, too; its queue is longer than the decode engine's."""
    times = [(20.0, 450), (20.001, 60), (20.002, 30)]
    asked = [
        Arrival(time_s=t, prompt_tokens=n, output_tokens=3, service_class="strict", tbt_s=0.05, ttft_s=1.0)
        for t, n in times
    ]
    exact, fast = (beside(f, asked) for f in (Fleet, FastFleet))
    assert [r.is_beside for r in fast.requests] == [r.is_beside for r in exact.requests] == [False, True, True]
    for f, e in zip(fast.requests, exact.requests, strict=True):
        assert f.ttft_s == pytest.approx(e.ttft_s, abs=0.004)
        assert f.tokens == e.tokens == 3


def test_a_decode_engine_that_dies_gives_its_prompts_back() -> None:
    settings = scenario(goal(), mishaps=Mishaps(crash_every_s=30.0), start_up=StartUp(mean_s=15.0))
    wanted = replace(settings, goal=replace(settings.goal, decode_takes_prefill=True))
    result = FastFleet(wanted, law_of("rad", wanted.goal, {}, {})).run(poisson(10, 200, 3))
    assert any(r.is_beside for r in result.requests)
    assert all(r.outcome is not None for r in result.requests)
    assert all(r.tokens == r.asked.output_tokens for r in result.requests if r.outcome is Outcome.OK)


def test_full_memory_makes_requests_wait_and_all_come_through() -> None:
    wanted = scenario(goal())
    limits = replace(wanted.replica.limits, kv_blocks=120)
    settings = replace(wanted, replica=replace(wanted.replica, limits=limits))
    results = [f(settings, fixed({P: 1, D: 1})).run(poisson(4, 60, 5)) for f in (Fleet, FastFleet)]
    assert all(whole(r) == [] for r in results[:1])
    assert all(r.outcome is Outcome.OK for r in results[1].requests)
    assert results[1].end_s == pytest.approx(results[0].end_s, rel=0.25)


def test_what_it_cannot_do_is_said() -> None:
    mixed = scenario(goal((Pool.MIXED,)))
    with pytest.raises(FidelityError, match="use --fidelity exact for a mixed pool"):
        FastFleet(mixed, fixed({Pool.MIXED: 1}))
    noisy = scenario(goal())
    with pytest.raises(FidelityError, match="leave --noise out"):
        FastFleet(replace(noisy, replica=replace(noisy.replica, noise=0.1)), fixed({P: 1, D: 1}))
    with pytest.raises(FidelityError, match="no fidelity 'vague': choose from exact, fast"):
        fleet_of("vague")


def test_the_same_seed_gives_the_same_bytes() -> None:
    settings = scenario(goal())
    runs = [FastFleet(settings, law_of("rad", settings.goal, {}, {})).run(poisson(8, 60, 1)) for _ in range(2)]
    assert len({json.dumps(as_data(settings.goal, r)) for r in runs}) == 1
