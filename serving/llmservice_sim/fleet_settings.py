"""What a simulated service runs on and what may happen to it. Frozen; all durations in seconds."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmservice_core.model import Goal, Pool
from llmservice_core.picking import STEPS_HELD, UNBOUNDED, Room
from llmservice_core.picking import Policy as RoutingPolicy
from llmservice_core.steps import StepTime
from llmservice_sim.engine import EngineLimits

TILE_TOKENS = 128
"""As the engine exporter assumes where nobody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One engine: how long its steps take and what it holds. `noise`: relative size of lognormal scatter of a step."""

    step_time: StepTime
    limits: EngineLimits
    kv_bytes_per_token: int
    noise: float = 0.0
    tile_tokens: int = TILE_TOKENS
    """As the engine reports it; a paced engine's tokens stand for several each, so its tile is smaller."""
    token_budget: int | None = None
    """Of a step, set by somebody; None: the engine chooses it by its targets."""

    @property
    def kv_tokens(self) -> int:
        return self.limits.kv_blocks * self.limits.block_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Out of one prefill replica: latency + bytes / bandwidth, one transfer after the other.

    Default: A100 machines in different nodes, fitted to Vidur's send/recv measurements (mean error 1.6 %).
    """

    latency_s: float = 0.00011
    bytes_per_s: float = 20.8e9

    def seconds(self, size_bytes: float) -> float:
        return self.latency_s + size_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class StartUp:
    """Created to Ready: lognormal with this mean and coefficient of variation; 0: always the mean."""

    mean_s: float = 120.0
    cv: float = 0.1
    recorded: Mapping[Pool, Sequence[float]] = field(default_factory=dict)
    """Of a run that is simulated after the fact: seconds of each pool's pods in the order of their creation."""
    known: Sequence[float] = ()
    """Of the pods that were Ready before the run: what the operator had seen of start-ups by then."""

    def draw(self, rng: random.Random, pool: Pool, number: int) -> float:
        """Of the `number`-th pod (from 0) of the pool that the run itself has made."""
        if number < len(self.recorded.get(pool, ())):
            return self.recorded[pool][number]
        if self.cv <= 0.0:
            return self.mean_s
        variance = math.log(1.0 + self.cv**2)
        return self.mean_s * math.exp(rng.gauss(-variance / 2, math.sqrt(variance)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mishaps:
    """`crash_every_s`: mean time between crashes of one Ready pod. `cluster_gpus`: pods beyond that find no node."""

    crash_every_s: float | None = None
    cluster_gpus: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A service to simulate. `initial`: Ready replicas at the start, else each pool's minimum."""

    goal: Goal
    replica: Replica
    policy: str
    policy_settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the policy, as an engine takes them; the exact fidelity only."""
    routing: RoutingPolicy = RoutingPolicy.SHORTEST_QUEUE
    link: Link = field(default_factory=Link)
    start_up: StartUp = field(default_factory=StartUp)
    mishaps: Mishaps = field(default_factory=Mishaps)
    scrape_s: float = 15.0
    initial: Mapping[Pool, int] = field(default_factory=dict)
    seed: int = 0
    max_context_tokens: int | None = None
    """Longest prompt and answer together; vLLM refuses longer requests. None: what the KV cache holds."""
    wait_for_engine_s: float = 10.0
    """The router's patience with a fleet that has no engine, its default; then the request is shed."""
    wait_for_start_s: float = 900.0
    """The same while a service that may sleep has no engine: the router's default."""
    finish_s: float = 120.0
    """What a leaving pod may use to end its streams, as the operator sets it; what is left then is cut."""
    room: Room = UNBOUNDED
    """Prompts that an engine holds before the next one waits in the router. Unbounded: the router keeps none back."""
    attempts: int = 3
    """Routes tried for a request whose client has seen nothing, the router's default."""

    def with_router_queue(self) -> Scenario:
        """As in production: two steps of prompts in each engine, the rest in the router's line."""
        return replace(self, room=Room(tokens=STEPS_HELD * self.replica.limits.max_batched_tokens))

    @property
    def context_tokens(self) -> int:
        held = self.replica.kv_tokens
        return held if self.max_context_tokens is None else min(held, self.max_context_tokens)
