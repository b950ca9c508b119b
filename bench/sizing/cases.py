"""What a load of the comparison is: part of a production day, a short trace or a made-up burst. See `loads`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
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


Load = Callable[[float, int], Sequence[tuple[float, int, int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A load and the laws that serve it. `rows` makes the requests for a number of seconds and a seed."""

    name: str
    rows: Load
    full_s: float
    quick_s: float
    classes: tuple[ServiceClass, ...] = CHAT
    start_up_s: float = 120.0
    seed: int = 0
    laws: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Steps of the planner that are left out, one at a time."""

    @property
    def runs(self) -> int:
        """Named ones: the oracle's, those of the laws and those without a step."""
        return 1 + len(self.laws) + len(self.without)

    def scenario(self) -> Scenario:
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
            seed=self.seed,
        )

    def trace(self, seconds: float) -> list[Arrival]:
        rng, found = random.Random(f"{self.seed}/classes"), []
        for time_s, prompt, output in self.rows(seconds, self.seed):
            c = rng.choice(self.classes)
            found.append(asked(time_s, prompt, output, c))
        return found


@dataclass(frozen=True, slots=True)
class FromFile:
    """A part of a trace in bench/data from a second on, at a mean rate."""

    path: str
    start_s: float
    rate_rps: float

    def __call__(self, seconds: float, seed: int) -> list[tuple[float, int, int]]:
        cut = Cut(start_s=self.start_s, seconds=seconds, rate_rps=self.rate_rps)
        found = arrivals(rows_of(DATA / self.path, cut, seed), CHAT, {}, seed)
        return [(a.time_s, min(MOST_PROMPT, a.prompt_tokens), a.output_tokens) for a in found]


LOW_RPS, HIGH_RPS, PROMPT, OUTPUT = 1.0, 24.0, 8000, 1000


def sine(time_s: float) -> float:
    """Requests/s: from low to high and back in 30 minutes."""
    middle, swing = (HIGH_RPS + LOW_RPS) / 2, (HIGH_RPS - LOW_RPS) / 2
    return middle - swing * math.cos(2 * math.pi * time_s / (30 * MINUTE_S))


def square(time_s: float) -> float:
    """Low and high in turn, 15 minutes each."""
    return HIGH_RPS if int(time_s / (15 * MINUTE_S)) % 2 else LOW_RPS


@dataclass(frozen=True, slots=True)
class Shaped:
    """Poisson arrivals of a rate that changes, by thinning; `shape` is one of SHAPES."""

    shape: str

    def __call__(self, seconds: float, seed: int) -> list[tuple[float, int, int]]:
        rate, rng, now_s, found = SHAPES[self.shape], random.Random(f"{seed}/burst"), 0.0, []
        while (now_s := now_s + rng.expovariate(HIGH_RPS)) < seconds:
            if rng.random() * HIGH_RPS < rate(now_s):
                found.append((now_s, PROMPT, OUTPUT))
        return found


SHAPES: Mapping[str, Callable[[float], float]] = {"sine": sine, "square": square}
