"""The loads that sizing laws are compared on: parts of production days, short traces, and two made-up bursts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmservice_cli.service_file import load
from llmservice_core.model import Goal, Pool, PoolGoal, ServiceClass, Slo
from llmservice_sim.fleet_settings import Scenario, StartUp
from llmservice_sim.jobs import Arrival
from llmservice_sim.workload import Cut, arrivals, rows_of

ROOT = Path(__file__).parents[2]
DATA = ROOT / "bench" / "data"
SERVICE = ROOT / "examples" / "chat.yaml"
POLICY = "slai"
"""For the fast fidelity is proved equal to the exact one with it, overload included."""
MOST_PROMPT = 4096
"""Longer prompts are cut: on an A100 they alone take longer than the strict TTFT (our sizing study does the same)."""
DAY_S, HOUR_S, MINUTE_S = 86_400.0, 3600.0, 60.0


def _class(name: str, ttft_s: float, tbt_s: float) -> ServiceClass:
    return ServiceClass(
        name=name, ttft=Slo(target_s=ttft_s, percentile=99.0), tbt=Slo(target_s=tbt_s, percentile=99.0), weight=1.0
    )


CHAT = (_class("interactive", 0.5, 0.05), replace(_class("batch", 5.0, 0.5), is_default=True))
BURST = (replace(_class("users", 3.0, 0.035), is_default=True),)
"""As in ai-dynamo/dynamo#10528."""


def asked(time_s: float, prompt_tokens: int, output_tokens: int, c: ServiceClass) -> Arrival:
    """A request of a class, with its targets."""
    return Arrival(
        time_s=time_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        service_class=c.name,
        tbt_s=c.tbt.target_s,
        ttft_s=c.ttft.target_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`rows` makes the requests for a number of seconds; `full_s` and `quick_s` are how long the two forms take."""

    name: str
    rows: Callable[[float, int], Sequence[tuple[float, int, int]]]
    full_s: float
    quick_s: float
    classes: tuple[ServiceClass, ...] = CHAT
    start_up_s: float = 120.0

    def scenario(self, seed: int = 0) -> Scenario:
        service = load(str(SERVICE), "a100", POLICY)
        pools = tuple(
            PoolGoal(pool=p, min_replicas=1, max_replicas=64, gpus_per_replica=1) for p in (Pool.PREFILL, Pool.DECODE)
        )
        goal: Goal = replace(service.goal, classes=self.classes, pools=pools, gpu_budget=None)
        return Scenario(
            goal=goal,
            replica=service.replica,
            policy=POLICY,
            start_up=StartUp(mean_s=self.start_up_s, cv=0.1),
            seed=seed,
        )

    def trace(self, seconds: float, seed: int = 0) -> list[Arrival]:
        rng, found = random.Random(f"{seed}/classes"), []
        for time_s, prompt, output in self.rows(seconds, seed):
            c = rng.choice(self.classes)
            found.append(asked(time_s, prompt, output, c))
        return found


def _file(path: str, start_s: float, rate_rps: float) -> Callable[[float, int], list[tuple[float, int, int]]]:
    def rows(seconds: float, seed: int) -> list[tuple[float, int, int]]:
        cut = Cut(start_s=start_s, seconds=seconds, rate_rps=rate_rps)
        found = arrivals(rows_of(DATA / path, cut, seed), CHAT, {}, seed)
        return [(a.time_s, min(MOST_PROMPT, a.prompt_tokens), a.output_tokens) for a in found]

    return rows


LOW_RPS, HIGH_RPS, PROMPT, OUTPUT = 1.0, 24.0, 8000, 1000


def sine(time_s: float) -> float:
    """Requests/s: from low to high and back in 30 minutes."""
    middle, swing = (HIGH_RPS + LOW_RPS) / 2, (HIGH_RPS - LOW_RPS) / 2
    return middle - swing * math.cos(2 * math.pi * time_s / (30 * MINUTE_S))


def square(time_s: float) -> float:
    """Low and high in turn, 15 minutes each."""
    return HIGH_RPS if int(time_s / (15 * MINUTE_S)) % 2 else LOW_RPS


def _shaped(rate: Callable[[float], float]) -> Callable[[float, int], list[tuple[float, int, int]]]:
    """Poisson arrivals of a rate that changes, by thinning."""

    def rows(seconds: float, seed: int) -> list[tuple[float, int, int]]:
        rng, now_s, found = random.Random(f"{seed}/burst"), 0.0, []
        while (now_s := now_s + rng.expovariate(HIGH_RPS)) < seconds:
            if rng.random() * HIGH_RPS < rate(now_s):
                found.append((now_s, PROMPT, OUTPUT))
        return found

    return rows


LARGE, REASON = "servegen/m-large_windows.csv.gz", "servegen/deepseek-r1_windows.csv.gz"
CONVERSATION, CODE = "azure-2023/conv_0-40min.csv.gz", "azure-2023/code_0-40min.csv.gz"
MORNING_S = 7 * DAY_S + 7 * HOUR_S

CASES = (
    Case(name="azure conversation", rows=_file(CONVERSATION, 0.0, 6.0), full_s=2400.0, quick_s=1200.0),
    Case(name="azure code", rows=_file(CODE, 0.0, 3.0), full_s=2400.0, quick_s=1200.0),
    Case(name="deepseek-r1", rows=_file(REASON, 6 * HOUR_S, 2.0), full_s=4 * HOUR_S, quick_s=1200.0),
    Case(name="m-large day 7", rows=_file(LARGE, MORNING_S, 8.0), full_s=4 * HOUR_S, quick_s=1800.0),
)
BURSTS = (
    Case(name="sine 1-24 req/s", rows=_shaped(sine), full_s=HOUR_S, quick_s=1800.0, classes=BURST),
    Case(name="square 1-24 req/s", rows=_shaped(square), full_s=HOUR_S, quick_s=1800.0, classes=BURST),
)
ABLATED = CASES[-1]
TUNED = Case(name="m-large day 8", rows=_file(LARGE, MORNING_S + DAY_S, 8.0), full_s=4 * HOUR_S, quick_s=1800.0)
"""The day that constants of laws may be chosen on; it is in no table."""
