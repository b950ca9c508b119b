"""The loop closed in virtual time: paced engines with measured GPU steps, counters scraped every 5 s, pods that start.

A small model of the demo's service, not of vLLM: prefill replicas serve prompts in order, decode replicas batch up to
their KV memory. What is under test is the planner on counted numbers: it learns capacity, follows the load and settles.
"""

import heapq
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from llmservice_core.latency import Work, work
from llmservice_core.metric_names import FEATURES
from llmservice_core.model import (
    Attainment,
    ClassTraffic,
    EngineLimits,
    Goal,
    Mode,
    Observation,
    Pool,
    PoolGoal,
    PoolSeen,
    ServiceClass,
    Slo,
    StepStats,
)
from llmservice_core.planner import plan
from llmservice_core.planner_memory import Memory
from llmservice_core.step_models import step_model
from llmservice_core.step_sums import PAIRS
from llmservice_serving.engine_numbers import EngineNumbers, Limits, Live

SCALE = 8
MODEL = step_model("rtx4090-mistral-7b")
LIMITS = Limits(kv_tokens=3683, max_batched_tokens=64, max_seqs=16, tile_tokens=16)
START_UP_S, SCRAPE_S = 30.0, 5.0
USERS = ServiceClass(
    name="users", ttft=Slo(target_s=2.0, percentile=95), tbt=Slo(target_s=0.1, percentile=99), is_default=True
)


@dataclass(slots=True)
class Request:
    at_s: float
    prompt: int
    output: int
    left: int = 0
    held: int = 0


@dataclass(slots=True)
class Replica:
    """One engine. `free_s` is when its present step ends."""

    ready_s: float
    free_s: float = 0.0
    queue: deque[Request] = field(default_factory=deque)
    batch: list[Request] = field(default_factory=list)
    done: int = 0
    numbers: EngineNumbers = field(default_factory=lambda: EngineNumbers(LIMITS, lambda: Live(0, 0, 0, 0, 0, 0.0)))  # type: ignore[misc,call-arg]


@dataclass(slots=True)
class Counts:
    """What the exporters have counted at one scrape."""

    time_s: float
    arrivals: int
    prompts: int
    prompt_tokens: int
    answers: int
    output_tokens: int
    ttft: tuple[int, int]
    tbt: tuple[int, int]
    steps: dict[Pool, dict[str, list[float]]]


class Service:
    """Virtual time; every engine step is one event."""

    def __init__(self, seed: int, budget: int) -> None:
        self.random, self.now_s = random.Random(seed), 0.0
        self.pools = {p: [Replica(ready_s=0.0)] for p in (Pool.PREFILL, Pool.DECODE)}
        self.gone: dict[Pool, list[Replica]] = {p: [] for p in self.pools}
        self.n = dict.fromkeys(("arrivals", "prompts", "prompt_tokens", "answers", "output_tokens"), 0)
        self.ttft, self.tbt = [0, 0], [0, 0]
        self.waiting_tokens = 0
        self.history: list[Counts] = []
        self.memory: Memory | None = None
        self.sizes: list[tuple[float, int, int]] = []
        self.goal = Goal(
            classes=(USERS,),
            pools=tuple(PoolGoal(pool=p, min_replicas=1, max_replicas=5, gpus_per_replica=1) for p in self.pools),
            mode=Mode.AUTO,
            gpu_budget=budget,
            interval_s=5.0,
            target_load=0.98,
            stabilization_s=None,
        )

    def run(self, seconds: float, rate_rps: float, prompt: tuple[int, int], output: tuple[int, int]) -> None:
        """Poisson arrivals with lengths uniform in real tokens; a scrape and a plan every 5 s."""
        events: list[tuple[float, int, str]] = []
        end_s, order = self.now_s + seconds, iter(range(10**9))
        for t in self._poisson(rate_rps, end_s):
            heapq.heappush(events, (t, next(order), "arrival"))
        ticks = int(seconds / SCRAPE_S)
        for k in range(1, ticks + 1):
            heapq.heappush(events, (self.now_s + k * SCRAPE_S, next(order), "tick"))
        while events:
            self.now_s, _, kind = heapq.heappop(events)
            if kind == "arrival":
                self._arrive(prompt, output)
            elif kind == "tick":
                self._tick()
            for end in self._work():
                heapq.heappush(events, (end, next(order), "step"))
            if kind == "step" and self.now_s > end_s:
                break

    def _poisson(self, rate_rps: float, end_s: float) -> Iterator[float]:
        t = self.now_s
        while (t := t + self.random.expovariate(rate_rps)) < end_s:
            yield t

    def _arrive(self, prompt: tuple[int, int], output: tuple[int, int]) -> None:
        tiny = [max(1, self.random.randint(*r) // SCALE) for r in (prompt, output)]
        request = Request(self.now_s, tiny[0], tiny[1], left=tiny[0])
        self.n["arrivals"] += 1
        self.waiting_tokens += tiny[0]
        shortest = min(self._ready(Pool.PREFILL), key=lambda r: sum(q.left for q in r.queue))
        shortest.queue.append(request)

    def _ready(self, pool: Pool) -> list[Replica]:
        return [r for r in self.pools[pool] if r.ready_s <= self.now_s]

    def _work(self) -> Iterator[float]:
        for pool, replicas in self.pools.items():
            for replica in (*replicas, *self.gone[pool]):
                if replica.free_s <= self.now_s and replica.ready_s <= self.now_s:
                    seconds = self._prefill(replica) if pool is Pool.PREFILL else self._decode(replica)
                    if seconds:
                        replica.free_s = self.now_s + seconds
                        yield replica.free_s

    def _step(self, replica: Replica, done: Work) -> float:
        seconds = MODEL.work_s(done.scaled(SCALE)) * self.random.uniform(0.99, 1.03)
        replica.numbers.step(done, seconds)
        return seconds

    def _prefill(self, replica: Replica) -> float:
        """Chunks of the oldest prompts up to the token budget; the first token comes one decode step later."""
        chunks, room = [], LIMITS.max_batched_tokens
        for request in list(replica.queue):
            take = min(room, request.left)
            if take == 0:
                break
            chunks.append((take, request.prompt - request.left))
            request.left -= take
            room -= take
        if not chunks:
            return 0.0
        seconds = self._step(replica, work(prefill=chunks))
        while replica.queue and replica.queue[0].left == 0:
            self._prompt_done(replica.queue.popleft(), self.now_s + seconds)
        return seconds

    def _prompt_done(self, request: Request, at_s: float) -> None:
        self.n["prompts"] += 1
        self.n["prompt_tokens"] += request.prompt
        self.waiting_tokens -= request.prompt
        self.ttft[0] += 1
        self.ttft[1] += at_s + 0.05 - request.at_s <= USERS.ttft.target_s
        request.held = request.prompt
        emptiest = min(self._ready(Pool.DECODE), key=lambda r: len(r.queue) + len(r.batch))
        emptiest.queue.append(request)

    def _decode(self, replica: Replica) -> float:
        while replica.queue and len(replica.batch) < LIMITS.max_seqs:
            held = sum(r.held for r in replica.batch) + replica.queue[0].held + replica.queue[0].output
            if replica.batch and held > LIMITS.kv_tokens:
                break
            replica.batch.append(replica.queue.popleft())
        if not replica.batch:
            return 0.0
        seconds = self._step(replica, work(decode_kv=[r.held for r in replica.batch]))
        self.tbt[0] += len(replica.batch)
        self.tbt[1] += len(replica.batch) * (seconds <= USERS.tbt.target_s)
        for request in list(replica.batch):
            request.held += 1
            if request.held - request.prompt >= request.output:
                replica.batch.remove(request)
                self.n["answers"] += 1
                self.n["output_tokens"] += request.output
        return seconds

    def _tick(self) -> None:
        steps = {
            p: {k: [s.steps, s.seconds, *s.xx, *s.xy] for k, s in _summed([*rs, *self.gone[p]]).items()}
            for p, rs in self.pools.items()
        }
        n = self.n
        self.history.append(
            Counts(
                self.now_s, n["arrivals"], n["prompts"], n["prompt_tokens"], n["answers"], n["output_tokens"],
                (self.ttft[0], self.ttft[1]), (self.tbt[0], self.tbt[1]), steps,
            )
        )  # fmt: skip
        made, self.memory = plan(self.goal, self._seen(), self.memory)
        for pool in self.pools:
            self._resize(pool, made.replicas(pool) or 0)
        self.sizes.append((self.now_s, len(self.pools[Pool.PREFILL]), len(self.pools[Pool.DECODE])))

    def _resize(self, pool: Pool, wanted: int) -> None:
        replicas = self.pools[pool]
        while len(replicas) < wanted:
            replicas.append(Replica(ready_s=self.now_s + START_UP_S))
        while len(replicas) > wanted:
            victim = max(replicas, key=lambda r: (r.ready_s > self.now_s, r.ready_s, -len(r.queue) - len(r.batch)))
            replicas.remove(victim)
            self.gone[pool].append(victim)

    def _back(self, seconds: float) -> Counts:
        return next(c for c in self.history if c.time_s >= self.now_s - seconds - 1e-6)

    def _seen(self) -> Observation:
        """The operator's observe.py in short: differences over 10, 30, 60 and 200 s."""
        new, old, recent, full = self.history[-1], self._back(60.0), self._back(10.0), self._back(200.0)
        short = self._back(30.0) if new.answers - self._back(30.0).answers >= 50 else old
        span_s = new.time_s - old.time_s
        traffic = ClassTraffic(
            name="users",
            arrivals_rps=(new.arrivals - old.arrivals) / span_s if span_s else None,
            recent_rps=(new.arrivals - recent.arrivals) / (new.time_s - recent.time_s) if span_s else None,
            prompt_tokens=_ratio(new.prompt_tokens - short.prompt_tokens, new.prompts - short.prompts),
            output_tokens=_ratio(new.output_tokens - short.output_tokens, new.answers - short.answers),
            ttft=_attained(USERS.ttft.target_s, new.ttft, old.ttft),
            tbt=_attained(USERS.tbt.target_s, new.tbt, old.tbt),
        )
        return Observation(
            time_s=self.now_s,
            newest_sample_s=new.time_s,
            scrape_gap_s=SCRAPE_S,
            window_s=span_s,
            recent_window_s=(new.time_s - recent.time_s) or None,
            classes=(traffic,),
            pools=tuple(self._pool(p, new, self._back(30.0), full) for p in self.pools),
            waiting_prompt_tokens=float(self.waiting_tokens),
            start_up_s=START_UP_S,
        )

    def _pool(self, pool: Pool, new: Counts, recent: Counts, full: Counts) -> PoolSeen:
        ready = self._ready(pool)
        replicas = self.pools[pool]
        kinds = new.steps[pool].items()
        return PoolSeen(
            pool=pool,
            desired=len(replicas),
            ready=len(ready),
            starting=len(replicas) - len(ready),
            draining=0,
            unschedulable=0,
            limits=EngineLimits(kv_tokens=3683.0, max_batched_tokens=64.0, max_seqs=16.0, tile_tokens=16.0),
            steps=tuple(_stats(k, row, full.steps[pool][k]) for k, row in kinds),
            recent_steps=tuple(_stats(k, row, recent.steps[pool][k]) for k, row in kinds),
            waiting=float(sum(len(r.queue) for r in ready)) if pool is Pool.DECODE else None,
            running_decodes=float(sum(len(r.batch) for r in ready)),
        )


def _summed(replicas: Sequence[Replica]) -> dict[str, "Sum"]:
    return {k: Sum([r.numbers.kinds[k] for r in replicas]) for k in ("prefill", "decode")}


class Sum:
    def __init__(self, parts: Sequence[object]) -> None:
        self.steps = sum(p.steps for p in parts)  # type: ignore[attr-defined]
        self.seconds = sum(p.seconds for p in parts)  # type: ignore[attr-defined]
        self.xx = [sum(p.xx[i] for p in parts) for i in range(len(PAIRS))]  # type: ignore[attr-defined]
        self.xy = [sum(p.xy[i] for p in parts) for i in range(len(FEATURES))]  # type: ignore[attr-defined]


def _stats(kind: str, new: list[float], old: list[float]) -> StepStats:
    grown = [a - b for a, b in zip(new, old, strict=True)]
    return StepStats(
        kind=kind,
        steps=grown[0],
        seconds=grown[1],
        xx=dict(zip(PAIRS, grown[2 : 2 + len(PAIRS)], strict=True)),
        xy=dict(enumerate(grown[2 + len(PAIRS) :])),
    )


def _ratio(total: float, count: float) -> float | None:
    return total / count if count > 0 else None


def _attained(target_s: float, new: tuple[int, int], old: tuple[int, int]) -> Attainment:
    return Attainment(target_s=target_s, events=new[0] - old[0], good=new[1] - old[1])


def grown(sizes: Sequence[tuple[float, int, int]], column: int, since_s: float) -> float:
    """Seconds from `since_s` until the pool is larger than it was then."""
    before = next(s[column] for s in reversed(sizes) if s[0] <= since_s)
    return next(s[0] for s in sizes if s[0] > since_s and s[column] > before) - since_s


PROMPTS = ((2000, 8192), (1, 300))
OUTPUTS = ((1, 1000), (500, 1024))
"""Real tokens (prompt, output) of the two busy phases."""


@pytest.mark.parametrize("seed", range(3))
def test_the_demo_s_story(seed: int) -> None:
    """quiet -> prompt-heavy -> output-heavy -> quiet: prefill grows first, then decode, then both shrink."""
    service = Service(seed, budget=6)
    service.run(60.0, 1.0, (500, 4000), (100, 800))
    quiet_end_s = service.now_s
    service.run(150.0, 4.0, *PROMPTS)
    prompts_end_s = service.now_s
    service.run(150.0, 8.0, *OUTPUTS)
    outputs = [s for s in service.sizes if s[0] > prompts_end_s]
    service.run(180.0, 0.7, (500, 4000), (100, 800))
    assert grown(service.sizes, 1, quiet_end_s) <= 20.0
    assert max(s[1] for s in service.sizes) >= 3
    assert max(s[2] for s in outputs) > outputs[0][2]
    assert service.sizes[-1][1:] == (1, 1)
    assert max(p + d for _, p, d in service.sizes) <= 6


def test_a_steady_load_settles() -> None:
    """Ten minutes of the same Poisson load: few changes, and TTFT is met."""
    service = Service(7, budget=10)
    service.run(180.0, 2.5, (500, 4000), (100, 800))
    settled_s, ttft = service.now_s, list(service.ttft)
    service.run(600.0, 2.5, (500, 4000), (100, 800))
    late = [s[1:] for s in service.sizes if s[0] >= settled_s]
    changes = sum(a != b for a, b in pairwise(late))
    events, good = service.ttft[0] - ttft[0], service.ttft[1] - ttft[1]
    assert changes <= 12
    assert good / events > 0.95
