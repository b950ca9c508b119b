"""Laws of other projects: tables of what each decides. Costs of 50 us a prompt token and 25 ms a step, by hand."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from llmservice_core.capacity import Learned
from llmservice_core.model import ClassTraffic, EngineLimits, Pool
from llmservice_sim.fleet_latencies import Latencies
from llmservice_sim.fleet_requests import Outcome, Request
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import law_of
from llmservice_sim.laws_peers import Band, Dynamo, KedaSlo, Loops, TokenAware, TokenTargets
from llmservice_sim.laws_view import View
from tests.sim.fleets import LOOSE, SPLIT, STRICT, goal, poisson, run, scenario
from tests.sim.test_laws import view

P, D = SPLIT
LIMITS = EngineLimits(kv_tokens=1e6, max_batched_tokens=512.0, max_seqs=256.0, tile_tokens=128.0)
LEARNED = Learned(theta=(0.0, 0.0, 0.05, 0.0, 0.0, 0.0), attention_per_token=0.0, context_tokens=1000.0)
"""50 us a token, prompt or decode: a step of 128 decodes takes 6.4 ms."""


SHIPPED = Band(low=0.40, high=0.55)


def latency(sizes: Mapping[Pool, int], shares: Mapping[Pool, float], at: float) -> View:
    return replace(view(sizes, {}, at=at), latency=shares.get)


@pytest.mark.parametrize(
    ("share", "size", "wanted"),
    [
        pytest.param(0.50, 4, 4, id="in the band"),
        pytest.param(0.56, 4, 5, id="4 + ceil(4 x .018)"),
        pytest.param(1.10, 4, 8, id="twice the upper edge: 4 + 4"),
        pytest.param(9.00, 2, 8, id="clamped at 2: 2 + ceil(2 x 2.64), 4 at a time, 8 at most"),
        pytest.param(0.10, 4, 3, id="4 - floor(4 x .75), one at a time"),
        pytest.param(0.39, 4, 4, id="4 - floor(4 x .025)"),
    ],
)
def test_keda_slo_is_llm_d_s_formula(share: float, size: int, wanted: int) -> None:
    law = KedaSlo(goal(most=8), SHIPPED)
    expected = min(wanted, size + max(4, size))
    assert law.decide(latency({P: size, D: 1}, {P: share}, 1000.0)).sizes == {P: expected, D: 1}


def test_keda_slo_moves_slowly_and_holds_without_a_latency() -> None:
    law = KedaSlo(goal(), Band())
    found = [law.decide(latency({P: 4, D: 1}, {P: 0.1}, 15.0 * tick)).sizes[P] for tick in range(10)]
    assert found == [3, *[4] * 7, 3, 4]
    assert KedaSlo(goal()).decide(latency({P: 4, D: 1}, {}, 0.0)).sizes == {P: 4, D: 1}


def traffic(sizes: Mapping[Pool, int], rps: float, waiting: float = 0.0, decodes: float = 0.0, at: float = 0.0) -> View:
    """Of prompts of 1,000 and answers of 100 tokens."""
    base = view(sizes, {}, at=at)
    rows = [
        ClassTraffic(name=c.name, arrivals_rps=rps / 2, prompt_tokens=1000.0, output_tokens=100.0, ttft=None, tbt=None)
        for c in (STRICT, LOOSE)
    ]
    pools = tuple(replace(p, limits=LIMITS, running_decodes=decodes, waiting=0.0) for p in base.observation.pools)
    seen = replace(
        base.observation, classes=tuple(rows), pools=pools, waiting_prompt_tokens=waiting, window_s=60.0, time_s=at
    )
    return replace(base, observation=seen)


def knowing(law: TokenAware | Dynamo) -> None:
    law._costs._learned = dict.fromkeys(SPLIT, LEARNED)


@pytest.mark.parametrize(
    ("rps", "usage", "wanted"),
    [
        pytest.param(17.0, 0.6, {P: 1, D: 1}, id=".85 / .9 of a prefill, .6 / .65 of a decode replica"),
        pytest.param(37.0, 0.7, {P: 3, D: 2}, id="1.85 / .9 and .7 / .65"),
    ],
)
def test_token_aware_counts_tokens(rps: float, usage: float, wanted: Mapping[Pool, int]) -> None:
    law = TokenAware(goal(), TokenTargets(prefill=0.9))
    knowing(law)
    assert law.decide(replace(traffic({P: 1, D: 1}, rps), kv_usage=lambda _: usage)).sizes == wanted


def test_token_aware_holds_what_it_does_not_know() -> None:
    law = TokenAware(goal())
    assert law.decide(replace(traffic({P: 3, D: 2}, 9.0), kv_usage=lambda _: None)).sizes == {P: 3, D: 2}


def test_dynamo_s_throughput_loop_sets_the_floor_every_three_minutes() -> None:
    """40 req/s: 2.0 replicas of prompts. As shipped 2, at 65 % of the rate 4."""
    for rate, wanted in ((1.0, 2), (0.65, 4)):
        law = Dynamo(goal(), Loops(rate=rate))
        knowing(law)
        assert law.decide(traffic({P: 1, D: 1}, 40.0)).sizes[P] == wanted
        assert law.decide(traffic({P: wanted, D: 1}, 4.0, at=165.0)).sizes[P] == wanted
        assert law.decide(traffic({P: wanted, D: 1}, 4.0, at=180.0)).sizes[P] == wanted - 1


@pytest.mark.parametrize(
    ("waiting", "decodes", "wanted"),
    [
        pytest.param(0.0, 0.0, {P: 2, D: 2}, id="one fewer of each would do: 50 of 1,000 ms, no decode"),
        pytest.param(40000.0, 0.0, {P: 3, D: 2}, id="13,333 tokens each, .72 s; on two replicas 1.05 s"),
        pytest.param(90000.0, 0.0, {P: 4, D: 2}, id="30,000 tokens each: 1.55 s of 1.0"),
        pytest.param(0.0, 3600.0, {P: 2, D: 4}, id="1,200 decodes each: 60 ms of 50"),
    ],
)
def test_dynamo_s_load_loop_moves_by_one(waiting: float, decodes: float, wanted: Mapping[Pool, int]) -> None:
    law = Dynamo(goal())
    knowing(law)
    law._floors, law._next_s = {P: 1, D: 1}, 1e9
    assert law.decide(traffic({P: 3, D: 3}, 4.0, waiting, decodes)).sizes == wanted


def test_dynamo_waits_while_pods_start() -> None:
    law = Dynamo(goal())
    knowing(law)
    law._floors, law._next_s = {P: 1, D: 1}, 1e9
    seen = traffic({P: 3, D: 3}, 4.0, 90000.0)
    pools = tuple(replace(p, ready=2, starting=1) for p in seen.observation.pools)
    assert law.decide(replace(seen, observation=replace(seen.observation, pools=pools))).sizes == {P: 3, D: 3}


def test_the_worst_class_of_the_last_minute_is_the_signal() -> None:
    latencies = Latencies()
    assert latencies.worst(P, now_s=0.0) is None
    for at, c, ttft_s in ((0.0, STRICT, 9.0), (100.0, STRICT, 0.2), (101.0, STRICT, 0.5), (102.0, LOOSE, 8.0)):
        asked = Arrival(time_s=at - ttft_s, prompt_tokens=9, output_tokens=5, service_class=c.name)
        request = Request(asked, c, first_token_s=at, ended_s=at + 0.4, tokens=5, outcome=Outcome.OK)
        latencies.first_token(request)
        latencies.answer(request)
    assert latencies.worst(P, now_s=103.0) == pytest.approx(0.5)
    assert latencies.worst(D, now_s=103.0) == pytest.approx(2.0)
    assert latencies.worst(Pool.MIXED, now_s=103.0) == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["rad-static", "keda-slo", "token-aware", "dynamo"])
def test_each_law_grows_under_load_and_keeps_its_limits(name: str) -> None:
    settings = scenario(goal(budget=7))
    result = run(settings, poisson(30, 240, 3), law_of(name, settings.goal, {}, {}))
    sizes = [m.desired for m in result.moments]
    assert max(sum(s.values()) for s in sizes) <= 7
    assert max(s[P] for s in sizes) > 1
