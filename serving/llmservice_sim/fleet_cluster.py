"""The cluster of the simulated service: Deployments that follow a size, nodes that may be full, pods that start, crash
and leave. It decides nothing about sizes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from llmservice_core.model import Pool, PoolSeen
from llmservice_core.observation import ReadySince
from llmservice_core.planner_facts import MOST_START_UP_S
from llmservice_core.samples import p90_start_up_s
from llmservice_sim.engines import engine_of
from llmservice_sim.fleet_agenda import Agenda
from llmservice_sim.fleet_counters import EngineCounters, engine_target
from llmservice_sim.fleet_pods import Pod, PodState, Process
from llmservice_sim.fleet_requests import Part
from llmservice_sim.fleet_settings import Scenario

LEAVES_FIRST = (PodState.UNSCHEDULABLE, PodState.STARTING, PodState.READY)
"""Whom a ReplicaSet takes first; among equals, who became Ready last."""


class Cluster:
    """`lost` gets each part whose engine died, `changed` is told when pods come or go."""

    def __init__(
        self,
        scenario: Scenario,
        agenda: Agenda,
        rng: random.Random,
        lost: Callable[[Pod, Part], None],
        changed: Callable[[], None],
    ) -> None:
        self._scenario, self._agenda, self._rng = scenario, agenda, rng
        self._lost, self._changed = lost, changed
        self.pods: list[Pod] = []
        """Those that exist, in the order in which they were created."""
        self.gone: list[Pod] = []
        self.desired: dict[Pool, int] = {}
        self._gpus = {p.pool: p.gpus_per_replica for p in scenario.goal.pools}
        self._count = 0
        self._start_ups: list[tuple[float, float]] = [(0.0, s) for s in scenario.start_up.known]
        self._drawn: Counter[Pool] = Counter()

    def begin(self) -> None:
        """The replicas that were Ready before the first request came."""
        for goal in self._scenario.goal.pools:
            size = self._scenario.initial.get(goal.pool, goal.min_replicas)
            self.desired[goal.pool] = size
            for _ in range(size):
                pod = self._create(goal.pool)
                pod.scheduled_s = self._agenda.now_s
                self._ready(pod, None)

    def resize(self, sizes: Mapping[Pool, int]) -> None:
        for pool, size in sizes.items():
            self.desired[pool] = size
            living = [p for p in self.pods if p.pool is pool and p.state is not PodState.DRAINING]
            for _ in range(size - len(living)):
                self._create(pool)
            for pod in self._victims(living, len(living) - size):
                self._drain(pod)
        self._schedule()

    def _victims(self, living: Sequence[Pod], count: int) -> Sequence[Pod]:
        by_rank = sorted(living, key=lambda p: (LEAVES_FIRST.index(p.state), -(p.ready_s or 0.0), -p.created_s))
        return by_rank[: max(0, count)]

    def _create(self, pool: Pool) -> Pod:
        self._count += 1
        name = f"{pool.value}-{self._count}"
        pod = self._new_pod(name, pool)
        self.pods.append(pod)
        return pod

    def _new_pod(self, name: str, pool: Pool) -> Pod:
        target = engine_target(name, pool, self._scenario.goal.classes)
        return Pod(name=name, pool=pool, created_s=self._agenda.now_s, target=target)

    def _new_process(self, pod: Pod) -> Process:
        replica = self._scenario.replica
        scenario = self._scenario
        engine = engine_of(
            scenario.policy,
            replica.limits,
            replica.step_time,
            replica.tile_tokens,
            replica.token_budget,
            scenario.policy_settings,
        )
        return Process(engine, EngineCounters(self._scenario.goal.classes, replica, pod.live))

    def _schedule(self) -> None:
        """The oldest pending pod first, where its GPUs are free."""
        for pod in self.pods:
            if pod.state is PodState.UNSCHEDULABLE and self._fits(pod):
                pod.scheduled_s, pod.state = self._agenda.now_s, PodState.STARTING
                self._start(pod)

    def _fits(self, pod: Pod) -> bool:
        most = self._scenario.mishaps.cluster_gpus
        return most is None or self.gpus + self._gpus[pod.pool] <= most

    @property
    def gpus(self) -> int:
        return sum(self._gpus[p.pool] for p in self.pods if p.holds_gpus)

    def _start(self, pod: Pod) -> None:
        pod.starts += 1
        number = self._drawn[pod.pool]
        self._drawn[pod.pool] += 1
        seconds = self._scenario.start_up.draw(self._rng, pod.pool, number)
        self._agenda.after(seconds, partial(self._ready, pod, pod.starts))

    def _ready(self, pod: Pod, start: int | None) -> None:
        if pod.state is PodState.GONE or (start is not None and start != pod.starts):
            return
        now_s = self._agenda.now_s
        if start == 1 and now_s - pod.created_s <= MOST_START_UP_S:
            self._start_ups.append((pod.created_s, now_s - pod.created_s))
        pod.state, pod.ready_s = PodState.READY, now_s
        pod.process = self._new_process(pod)
        every_s = self._scenario.mishaps.crash_every_s
        if every_s is not None:
            self._agenda.after(self._rng.expovariate(1.0 / every_s), partial(self._crash, pod, pod.starts))
        self._changed()

    def _crash(self, pod: Pod, start: int) -> None:
        """The container dies and starts again in its place."""
        if pod.starts != start or not pod.serves:
            return
        if pod.state is PodState.DRAINING:
            self._remove(pod)
            return
        pod.state, pod.ready_s = PodState.STARTING, None
        self._start(pod)
        self._lose(pod)

    def _drain(self, pod: Pod) -> None:
        """Routers see it leave at once; its streams may end."""
        if pod.state is not PodState.READY:
            self._remove(pod)
            return
        pod.state = PodState.DRAINING
        self._agenda.after(self._scenario.finish_s, partial(self._remove, pod))
        self.left(pod)

    def left(self, pod: Pod) -> None:
        """A pod has less to do: one that is leaving and idle is gone."""
        if pod.state is PodState.DRAINING and pod.is_idle:
            self._remove(pod)

    def _remove(self, pod: Pod) -> None:
        if pod.state is PodState.GONE:
            return
        pod.state, pod.gone_s = PodState.GONE, self._agenda.now_s
        self.pods.remove(pod)
        self.gone.append(pod)
        self._lose(pod)
        self._schedule()

    def _lose(self, pod: Pod) -> None:
        """The process is dead, and with it all that it worked on."""
        parts, pod.parts = list(pod.parts), {}
        for part in parts:
            self._lost(pod, part)
        pod.process, pod.batch = None, None

    # What the operator sees

    def seen(self) -> tuple[PoolSeen, ...]:
        return tuple(self._seen(goal.pool) for goal in self._scenario.goal.pools)

    def _seen(self, pool: Pool) -> PoolSeen:
        states = [p.state for p in self.pods if p.pool is pool]
        return PoolSeen(
            pool=pool,
            desired=self.desired[pool],
            ready=states.count(PodState.READY),
            starting=states.count(PodState.STARTING),
            draining=states.count(PodState.DRAINING),
            unschedulable=states.count(PodState.UNSCHEDULABLE),
        )

    def ready_since(self) -> ReadySince:
        ready = [(p.pool, p.ready_s) for p in self.pods if p.state is PodState.READY and p.ready_s is not None]
        return ReadySince(routers=[0.0], engines={pool: [s for p, s in ready if p is pool] for pool in Pool})

    @property
    def start_up_s(self) -> float | None:
        return p90_start_up_s(self._start_ups)

    def everyone(self) -> Iterator[Pod]:
        yield from self.pods
        yield from self.gone

    def gpu_seconds(self, until_s: float) -> dict[Pool, float]:
        """Held by pods of each pool, from the node that they got to their end: start-ups and drains are paid for."""
        used = dict.fromkeys(self._gpus, 0.0)
        for pod in self.everyone():
            if pod.scheduled_s is not None:
                end_s = until_s if pod.gone_s is None else min(until_s, pod.gone_s)
                used[pod.pool] += self._gpus[pod.pool] * max(0.0, end_s - pod.scheduled_s)
        return used
