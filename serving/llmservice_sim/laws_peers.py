"""Laws that users of other projects have, written from descriptions of them and given what those need.

Where a project asks for a profiling run, its law gets the costs that our planner learns online (`core/capacity`): no
peer is worse off for a wrong profile. The constant of each that trades GPUs for promises is the cheapest with 99 % of
every promise on one day of ServeGen's m-large (day 8: bench/sizing/TUNED.md); that day is left out of every comparison.
Names and sources stand at each. Sizes are kept within
limits and budget for all alike.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from llmservice_core.capacity import Learned, PoolCapacity, decode_step, pool_capacity
from llmservice_core.model import Goal, Observation, Pool, PoolGoal, PoolSeen
from llmservice_core.planner_demand import Demand, demand, strictest_tbt_s, strictest_ttft
from llmservice_sim.fleet_settings import TILE_TOKENS
from llmservice_sim.laws_shape import Wishes, by_pool, within_budget
from llmservice_sim.laws_view import Sizing, View


class Costs:
    """Capacity of each pool as learned so far."""

    def __init__(self, goal: Goal) -> None:
        self._strict_s = strictest_tbt_s(goal)
        self._learned: dict[Pool, Learned] = {}

    def of(self, seen: Observation) -> Mapping[Pool, PoolCapacity]:
        found = {p.pool: pool_capacity(p, self._strict_s, self._learned.get(p.pool)) for p in seen.pools}
        self._learned |= {pool: c.learned for pool, c in found.items() if c.learned is not None}
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """llm-d's SLO-aware law: clamp, smoothing and dead band of P90 latency / target, and how fast sizes may move. As
    shipped the band is 0.40 to 0.55."""

    most: float = 2.0
    low: float = 0.62
    high: float = 0.85
    smooth_s: float = 45.0
    up_s: float = 60.0
    down_s: float = 120.0


class KedaSlo:
    """llm-d's "SLO-aware" control law for KEDA (llm-d docs/architecture/autoscaling/slo-aware-keda.md).

    s = mean over 45 s of min(max over SLOs of P90 / target, 2). s > high: n + ceil(n (s r / n / high - 1)) with r Ready
    of n; s < low: n - floor(n (1 - s / low)); else n. Up by max(100 %, 4) in 60 s, down by one pod in 120 s.
    """

    name = "keda-slo"

    def __init__(self, goal: Goal, band: Band | None = None) -> None:
        self._goal, self._band = goal, band or Band()
        self._seen: dict[Pool, deque[tuple[float, float]]] = {p.pool: deque() for p in goal.pools}
        self._changed_s: dict[Pool, float] = {}

    def decide(self, view: View) -> Sizing:
        pools, sizes, texts = by_pool(view.observation.pools), {}, []
        for goal in self._goal.pools:
            signal = self._signal(goal.pool, view)
            sizes[goal.pool] = self._size(goal, pools[goal.pool], signal, view.now_s)
            texts.append(f"{goal.pool}: {'no latency' if signal is None else f'P90 at {signal:.2f} of the target'}")
        return Sizing(sizes=within_budget(self._goal, sizes, pools), why="; ".join(texts))

    def _signal(self, pool: Pool, view: View) -> float | None:
        rows, now = self._seen[pool], view.latency(pool)
        if now is not None:
            rows.append((view.now_s, min(now, self._band.most)))
        while rows and rows[0][0] <= view.now_s - self._band.smooth_s:
            rows.popleft()
        return sum(s for _, s in rows) / len(rows) if rows else None

    def _size(self, goal: PoolGoal, seen: PoolSeen, signal: float | None, now_s: float) -> int:
        n = seen.desired
        wish = n if signal is None else self._wish(n, seen.ready, signal)
        wish = min(max(wish, goal.min_replicas), goal.max_replicas)
        wait_s = self._band.up_s if wish > n else self._band.down_s
        if wish == n or now_s - self._changed_s.get(goal.pool, -math.inf) < wait_s:
            return n
        self._changed_s[goal.pool] = now_s
        return min(wish, n + max(4, n)) if wish > n else n - 1

    def _wish(self, n: int, ready: int, signal: float) -> int:
        if signal > self._band.high:
            return n + max(0, math.ceil(n * (signal * ready / n / self._band.high - 1.0) - 1e-9)) if n else 1
        return n - math.floor(n * (1.0 - signal / self._band.low) + 1e-9) if signal < self._band.low else n


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTargets:
    """Shares of a prefill replica's token rate (the guide: 0.9) and of a decode replica's KV memory to be used."""

    prefill: float = 0.65
    kv: float = 0.65
    down_s: float = 120.0


class TokenAware:
    """Token-aware scaling, after llm-d's token-velocity guide (llm-d-autoscaling, TOKEN-AWARE-AUTOSCALING-SUMMARY.md).

    prefill = ceil(arriving prompt tokens/s / peak tokens/s / share), decode = ceil(sum of KV cache usage / 0.65). The
    guide scales prefill on queued tokens / peak / slack, which holds no steady state: empty queues ask for no replica.
    The rate is what a user would take instead.
    """

    name = "token-aware"

    def __init__(self, goal: Goal, targets: TokenTargets | None = None) -> None:
        self._goal, self._targets = goal, targets or TokenTargets()
        self._costs, self._wishes = Costs(goal), Wishes(self._targets.down_s)

    def decide(self, view: View) -> Sizing:
        costs, asked = self._costs.of(view.observation), demand(self._goal, view.observation)
        pools = by_pool(view.observation.pools)
        sizes, texts = {}, []
        for goal in self._goal.pools:
            needs = self._needs(goal.pool, costs[goal.pool], asked, view)
            present = pools[goal.pool].desired
            wish = present if needs is None else math.ceil(needs - 1e-9)
            sizes[goal.pool] = self._wishes.shaped(goal, present, wish, view.now_s)
            texts.append(f"{goal.pool}: {'unknown' if needs is None else f'{needs:.2f} replicas of tokens'}")
        return Sizing(sizes=within_budget(self._goal, sizes, pools), why="; ".join(texts))

    def _needs(self, pool: Pool, cost: PoolCapacity, asked: Demand, view: View) -> float | None:
        found = []
        if pool is not Pool.DECODE:
            known = asked.unknown is None and cost.tau_prefill_s is not None
            found.append(
                asked.prompt_tokens_rps * (cost.tau_prefill_s or 0.0) / self._targets.prefill if known else None
            )
        if pool is not Pool.PREFILL:
            used = view.kv_usage(pool)
            found.append(None if used is None else used / self._targets.kv)
        known_needs = [needs for needs in found if needs is not None]
        return max(known_needs) if len(known_needs) == len(found) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loops:
    """Dynamo's planner: `rate` is the share of an engine's rate under the SLA that is planned for (1 as shipped)."""

    rate: float = 0.6
    throughput_s: float = 180.0
    sensitivity: float = 0.8


class Dynamo:
    """The two loops of Dynamo's planner with optimization_target sla (ai-dynamo/dynamo, planner/core).

    Each 180 s: replicas = ceil(requests/s / rate that one engine sustains within TTFT or ITL), a floor. In between, by
    one: up when every engine's estimate is above its SLA, down when the load of n on n - 1 would stay within 0.8 of it;
    nothing while a change is under way. Predictor "constant". Means, as there, not percentiles.
    """

    name = "dynamo"

    def __init__(self, goal: Goal, loops: Loops | None = None) -> None:
        self._goal, self._loops, self._costs = goal, loops or Loops(), Costs(goal)
        self._floors: dict[Pool, int] = {}
        self._next_s = 0.0

    def decide(self, view: View) -> Sizing:
        costs, asked = self._costs.of(view.observation), demand(self._goal, view.observation)
        pools = by_pool(view.observation.pools)
        if view.now_s >= self._next_s and asked.unknown is None:
            self._next_s = view.now_s + self._loops.throughput_s
            self._floors = {p: n for p, c in costs.items() if (n := self._floor(p, c, asked)) is not None}
        sizes = {g.pool: self._size(g, pools[g.pool], costs[g.pool], asked, view.observation) for g in self._goal.pools}
        floors = ", ".join(f"{pool} {n}" for pool, n in self._floors.items())
        return Sizing(sizes=within_budget(self._goal, sizes, pools), why=f"floors {floors or 'unknown'}")

    def _floor(self, pool: Pool, cost: PoolCapacity, asked: Demand) -> int | None:
        work = [
            None if tau_s is None else tokens_rps * tau_s
            for used, tokens_rps, tau_s in (
                (pool is not Pool.DECODE, asked.prompt_tokens_rps, cost.tau_prefill_s),
                (pool is not Pool.PREFILL, asked.output_tokens_rps, cost.tau_decode_s),
            )
            if used
        ]
        known = [w for w in work if w is not None]
        return math.ceil(sum(known) / self._loops.rate - 1e-9) if len(known) == len(work) else None

    def _size(self, goal: PoolGoal, seen: PoolSeen, cost: PoolCapacity, asked: Demand, all_seen: Observation) -> int:
        wish = present = seen.desired
        if seen.ready == present and seen.starting == seen.unschedulable == 0 and present > 0:
            now = self._estimate(goal.pool, seen, cost, asked, all_seen, present)
            fewer = None if present == 1 else self._estimate(goal.pool, seen, cost, asked, all_seen, present - 1)
            if now is not None and now > 1.0:
                wish += 1
            elif fewer is not None and fewer < self._loops.sensitivity:
                wish -= 1
        wish = max(wish, self._floors.get(goal.pool, 0)) if goal.pool in self._floors else max(wish, present)
        return min(max(wish, goal.min_replicas), goal.max_replicas)

    def _estimate(
        self, pool: Pool, seen: PoolSeen, cost: PoolCapacity, asked: Demand, all_seen: Observation, count: int
    ) -> float | None:
        """Of the target: TTFT by queued prompt tokens, ITL by the batch, of the worse phase of the pool."""
        parts = []
        if pool is not Pool.DECODE:
            parts.append(self._ttft(cost, asked, all_seen.waiting_prompt_tokens, count))
        if pool is not Pool.PREFILL:
            parts.append(self._itl(seen, cost, count))
        known = [p for p in parts if p is not None]
        return max(known) if len(known) == len(parts) else None

    def _ttft(self, cost: PoolCapacity, asked: Demand, waiting: float | None, count: int) -> float | None:
        if waiting is None or cost.tau_prefill_s is None or asked.prompt_tokens is None:
            return None
        return (waiting / count + asked.prompt_tokens) * cost.tau_prefill_s / strictest_ttft(self._goal).ttft.target_s

    def _itl(self, seen: PoolSeen, cost: PoolCapacity, count: int) -> float | None:
        if seen.running_decodes is None or cost.learned is None or cost.learned.context_tokens is None:
            return None
        width = max(1, math.ceil((seen.running_decodes + (seen.waiting or 0.0)) / count))
        x = decode_step(width, TILE_TOKENS, cost.learned.context_tokens)
        return sum(t * v for t, v in zip(cost.learned.theta, x, strict=True)) / strictest_tbt_s(self._goal)
