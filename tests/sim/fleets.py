"""Small services for the tests of the fleet: engines with round step times, goals with few words."""

import random
from collections.abc import Mapping

from llmservice_core.latency import Work
from llmservice_core.model import Goal, Mode, Pool, PoolGoal, ServiceClass, Slo
from llmservice_sim.engine import EngineLimits
from llmservice_sim.fleet import Fleet
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.fleet_settings import Link, Mishaps, Replica, Scenario, StartUp
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import Law, Rad, Static

STRICT = ServiceClass(name="strict", ttft=Slo(target_s=1.0, percentile=95), tbt=Slo(target_s=0.05, percentile=99))
LOOSE = ServiceClass(
    name="loose", ttft=Slo(target_s=20.0, percentile=90), tbt=Slo(target_s=0.5, percentile=99), is_default=True
)
SPLIT = (Pool.PREFILL, Pool.DECODE)


def step_s(work: Work) -> float:
    """Linear in tokens: 5 ms and 100 us for each; no tiles."""
    return 0.005 + 1e-4 * work.tokens


def goal(pools: tuple[Pool, ...] = SPLIT, budget: int | None = None, most: int = 8) -> Goal:
    return Goal(
        classes=(STRICT, LOOSE),
        pools=tuple(PoolGoal(pool=p, min_replicas=1, max_replicas=most, gpus_per_replica=1) for p in pools),
        mode=Mode.AUTO,
        gpu_budget=budget,
        interval_s=15.0,
        target_load=0.98,
        stabilization_s=None,
    )


def scenario(wanted: Goal, **changes: object) -> Scenario:
    limits = EngineLimits(max_batched_tokens=512, max_seqs=64, kv_blocks=2000)
    settings: dict[str, object] = {
        "goal": wanted,
        "replica": Replica(step_time=step_s, limits=limits, kv_bytes_per_token=131072),
        "policy": "slai",
        "link": Link(),
        "start_up": StartUp(mean_s=30.0, cv=0.2),
        "mishaps": Mishaps(),
    }
    return Scenario(**{**settings, **changes})  # type: ignore[arg-type]


def poisson(
    rate: float, seconds: float, seed: int, prompt: tuple[int, int] = (20, 900), output: tuple[int, int] = (1, 80)
) -> list[Arrival]:
    rng, now_s, found = random.Random(seed), 0.0, []
    while (now_s := now_s + rng.expovariate(rate)) < seconds:
        c = rng.choice((STRICT, LOOSE))
        found.append(
            Arrival(
                time_s=now_s,
                prompt_tokens=rng.randint(*prompt),
                output_tokens=rng.randint(*output),
                service_class=c.name,
                tbt_s=c.tbt.target_s,
                ttft_s=c.ttft.target_s,
            )
        )
    return found


def run(wanted: Scenario, trace: list[Arrival], law: Law | None = None) -> FleetResult:
    return Fleet(wanted, law or Rad(wanted.goal)).run(trace)


def fixed(sizes: Mapping[Pool, int]) -> Static:
    return Static(sizes)
