"""Laws that size pools: what each does with what it sees, and the bounds that know the load."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from llmservice_core.model import Observation, Pool, PoolSeen
from llmservice_sim.fleet_settings import StartUp
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import LAWS, Hpa, View, law_of
from llmservice_sim.laws_oracle import BIN_S, CLAIRVOYANT, curves, find, keeps_all
from tests.sim.fleets import SPLIT, fixed, goal, poisson, run, scenario

P, D = SPLIT


def view(
    sizes: Mapping[Pool, int],
    in_flight: Mapping[Pool, float | None],
    ready: Mapping[Pool, int] | None = None,
    at: float = 0,
) -> View:
    def seen(pool: Pool) -> PoolSeen:
        count = (ready or sizes)[pool]
        return PoolSeen(
            pool=pool, desired=sizes[pool], ready=count, starting=sizes[pool] - count, draining=0, unschedulable=0
        )

    observation = Observation(
        time_s=at,
        newest_sample_s=None,
        scrape_gap_s=None,
        window_s=0.0,
        classes=(),
        pools=tuple(seen(pool) for pool in sizes),
        waiting_prompt_tokens=None,
        start_up_s=None,
    )
    return View(now_s=at, observation=observation, in_flight=in_flight)


@pytest.mark.parametrize(
    ("count", "ready", "wanted"),
    [
        (10.0, 2, 2),  # as wanted
        (10.9, 2, 2),  # within the tolerance
        (12.0, 2, 3),
        (40.0, 2, 6),  # 8 wanted, 4 more at a time
        (10.5, 1, 2),  # one of two starts: it counts as empty, and nothing grows
        (12.0, 1, 3),
        (30.0, 1, 6),
        (None, 2, 2),  # unknown
        (0.0, 2, 1),
    ],
)
def test_hpa_is_the_formula_of_kubernetes(count: float | None, ready: int, wanted: int) -> None:
    law = Hpa(goal(), {P: 5.0, D: 5.0})
    sizes = law.decide(view({P: 2, D: 1}, {P: count, D: 5.0}, {P: ready, D: 1})).sizes
    assert sizes == {P: wanted, D: 1}


def test_hpa_shrinks_to_the_most_of_five_minutes() -> None:
    law = Hpa(goal(), {P: 5.0, D: 5.0})
    found: list[int] = []
    for at, count in ((0, 20.0), (15, 5.0), (290, 5.0), (301, 5.0), (320, 5.0)):
        found.append(law.decide(view({P: 4, D: 1}, {P: count, D: 5.0}, at=at)).sizes[P])
    assert found == [4, 4, 4, 1, 1]


def test_hpa_keeps_the_budget() -> None:
    law = Hpa(goal(budget=5), {P: 1.0, D: 1.0})
    sizes = law.decide(view({P: 2, D: 2}, {P: 50.0, D: 50.0})).sizes
    assert sum(sizes.values()) == 5
    assert all(size >= 2 for size in sizes.values())


def test_laws_by_name() -> None:
    for name in LAWS:
        assert law_of(name, goal(), {P: 1, D: 1}, {}).name == name
    with pytest.raises(ValueError, match="no law 'magic': choose from rad"):
        law_of("magic", goal(), {}, {})


def test_a_known_load_is_all_the_work_that_comes() -> None:
    settings = scenario(goal())
    trace = poisson(10, 120, 1)
    work = curves(settings, trace)
    prompts = sum(a.prompt_tokens for a in trace)
    assert sum(work[P]) * BIN_S == pytest.approx(prompts * 1e-4, rel=0.2)
    assert len(work[P]) == len(work[D]) == 8


def hills(rates: Sequence[float]) -> list[Arrival]:
    return [replace(a, time_s=a.time_s + 45 * i) for i, rate in enumerate(rates) for a in poisson(rate, 45, i)]


@pytest.mark.parametrize(("pools", "rates"), [(SPLIT, (2, 30, 2)), ((Pool.MIXED,), (1, 24, 1))])
def test_the_oracle_keeps_its_promises_with_less_than_the_peak(pools: tuple[Pool, ...], rates: Sequence[float]) -> None:
    settings = scenario(goal(pools), start_up=StartUp(mean_s=10.0, cv=0.0))
    trace = hills(rates)
    hours = {}
    for name in CLAIRVOYANT:
        found = find(name, settings, trace)
        result = run(found.scenario, trace, found.law)
        assert found.keeps_all
        assert keeps_all(result, settings)
        assert found.runs < 20
        hours[name] = result.total_gpu_hours
    assert hours["oracle"] < hours["static-peak"]
    fewest = run(settings, trace, fixed({g.pool: g.min_replicas for g in settings.goal.pools}))
    assert not keeps_all(fewest, settings)


def test_what_no_size_can_keep_is_said() -> None:
    found = find("oracle", scenario(goal(budget=2)), poisson(40, 60, 1))
    assert not found.keeps_all
    assert all(sum(sizes.values()) == 2 for sizes in found.law.sizes)
