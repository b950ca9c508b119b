"""What the scheduler's simulations run: cards, lengths, classes; one order through one trace, what its users saw."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from e2e.load import read_trace
from llmservice_core.bulk import Bulk
from llmservice_core.latency import Work
from llmservice_core.policies import make_policy
from llmservice_core.step_models import step_model
from llmservice_sim.engine import Engine, EngineLimits
from llmservice_sim.jobs import Arrival
from llmservice_sim.run import run
from llmservice_sim.summary import figures

DATA = Path(__file__).resolve().parents[1] / "data"
PLUS = "slai-plus"
MODEL = "rtx4090-mistral-7b"
LIMITS = EngineLimits(max_batched_tokens=512, max_seqs=128, kv_blocks=14_733)
"""The paper's: Mistral-7B on an RTX 6000 Ada, 90 % of its memory, blocks of 16 tokens."""
TILE, MEAN_CACHED, WIDTH, MEAN_HELD, WARM = 512, 1000, 87, 2700, 0.25
"""What work is priced at: tokens of a tile and cached before it, decodes that the KV cache holds and tokens of each."""
NOT_COUNTED = 0.05
"""Share of the requests that come before the engine is warm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The steps as they really are: `slower` times the model, with lognormal noise of that relative size."""

    model: str = MODEL
    slower: float = 1.0
    noise: float = 0.0

    def clock(self, seed: int) -> Callable[[Work], float]:
        rng, model = random.Random(seed), step_model(self.model)
        return lambda w: model.work_s(w) * self.slower * math.exp(rng.gauss(0.0, self.noise))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`classes`: share of the requests and TBT target in seconds, by name; the first is the strictest."""

    name: str
    classes: Mapping[str, tuple[float, float]]
    card: Card = field(default_factory=Card)
    lengths: str = "sharegpt"
    requests: int = 4000

    def trace(self, rate: float, seed: int) -> list[Arrival]:
        """Poisson arrivals."""
        rng, rows = random.Random(seed), read_trace(DATA / self.lengths / "lengths.csv")
        names, shares = list(self.classes), [share for share, _ in self.classes.values()]
        now_s, arrivals = 0.0, []
        for _ in range(self.requests):
            now_s += rng.expovariate(rate)
            prompt, output = rng.choice(rows)
            (name,) = rng.choices(names, shares)
            arrivals.append(
                Arrival(
                    time_s=now_s,
                    prompt_tokens=prompt,
                    output_tokens=output,
                    service_class=name,
                    tbt_s=self.classes[name][1],
                )
            )
        return arrivals


PAPER = Setting(name="the paper's", classes={"strict": (0.05, 0.1), "relaxed": (0.95, 0.5)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A policy with settings, under the name that tables give it. `budget`: tokens of a step."""

    name: str
    policy: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    budget: int = 512

    def engine(self, card: Card) -> Engine:
        """It believes the plain model, whatever the card does."""
        limits = replace(LIMITS, max_batched_tokens=self.budget)
        return Engine(limits, make_policy(self.policy, self.settings), step_model(card.model).work_s)


def order(policy: str) -> Order:
    return Order(name=policy, policy=policy, budget=Bulk().widest if policy == PLUS else 512)


class Meter:
    """The card's clock, which keeps what each step served."""

    def __init__(self, card: Card, seed: int) -> None:
        model = step_model(card.model)
        self._clock = card.clock(seed)
        self._prompt_s = model.step_s([(TILE, MEAN_CACHED)]) / TILE
        self._decode_s = model.step_s([], [MEAN_HELD] * WIDTH) / WIDTH
        self._now_s = 0.0
        self._steps: list[tuple[float, float]] = []

    def __call__(self, work: Work) -> float:
        seconds = self._clock(work)
        self._now_s += seconds
        self._steps.append((self._now_s, work.new_tokens * self._prompt_s + work.decodes * self._decode_s))
        return seconds

    def served(self, last_arrival_s: float) -> float:
        """Engine time, in which an overloaded engine is never idle."""
        begin_s = WARM * last_arrival_s
        return sum(work for at_s, work in self._steps if begin_s < at_s < last_arrival_s) / (last_arrival_s - begin_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One order at one rate with one seed; seconds."""

    setting: str
    order: str
    rate: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    tbt_p99_s: Mapping[str, float]
    is_tbt_met: bool
    served: float
    """Work served a second while requests came, but for the first quarter of that time: a prompt token counts what it
    costs in a tile of 512, an answer's token what it costs in a full-width decode step (RAD's prices). It says what an
    engine can do under overload only; unlike requests, work is not served sooner by taking short ones first."""

    def meets(self, median_s: float, tail_s: float = math.inf) -> bool:
        """The paper's criterion: median TTFT, and the tail of TBT of every class; and a bound on the tail of TTFT."""
        return self.ttft_p50_s < median_s and self.is_tbt_met and self.ttft_p99_s <= tail_s


def point(setting: Setting, chosen: Order, rate: float, seed: int) -> Point:
    meter = Meter(setting.card, seed)
    trace = setting.trace(rate, seed)
    result = run(trace, chosen.engine(setting.card), meter)
    counted = result.jobs[int(NOT_COUNTED * len(result.jobs)) :]
    everybody = figures(counted)
    tbt = {n: figures(j for j in counted if j.service_class == n).tbt_p99_s or 0.0 for n in setting.classes}
    return Point(
        setting=setting.name,
        order=chosen.name,
        rate=rate,
        ttft_p50_s=everybody.ttft_p50_s or 0.0,
        ttft_p95_s=everybody.ttft_p95_s or 0.0,
        ttft_p99_s=everybody.ttft_p99_s or 0.0,
        tbt_p99_s=tbt,
        is_tbt_met=all(tbt[n] <= target for n, (_, target) in setting.classes.items()),
        served=meter.served(trace[-1].time_s),
    )
