"""A whole service in virtual time: pools of exact engines, router, scrapes, and a law that sizes the pools.

The objects that decide are production's: core/routing chooses engines, core/policies order them, core/planner sizes
the pools from an Observation that core/observation makes of scraped counters. Here is only what happens in between:
steps take time, KV moves, pods start, crash and leave. The same seed gives the same bytes.

Not modelled: HTTP and tokenizer time, prefix cache, cancelled requests, several routers, transfers that share a
receiving link.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from zlib import crc32

from llmservice_core.model import Observation, Plan, Pool
from llmservice_core.observation import ReadySince, nothing_known, observed
from llmservice_core.samples import Series, range_s
from llmservice_core.slack import slack_of
from llmservice_sim.fast_steps import FastStepper
from llmservice_sim.fleet_agenda import Agenda
from llmservice_sim.fleet_cluster import Cluster
from llmservice_sim.fleet_latencies import Latencies
from llmservice_sim.fleet_pods import Pod, PodState
from llmservice_sim.fleet_requests import Part, Request
from llmservice_sim.fleet_result import Decision, FleetResult, Moment, class_result
from llmservice_sim.fleet_router import Router
from llmservice_sim.fleet_settings import Scenario
from llmservice_sim.fleet_steps import Stepper, count_gaps
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import Law, View

Progress = Callable[[float, int, int], None]
"""Virtual seconds, requests ended, requests in all."""
ROUTER = "router-0"
ASLEEP_S = 1.0
"""How often the operator asks the routers of a service that sleeps whether a request came."""


class Fleet:
    """One run: `run` once."""

    def __init__(self, scenario: Scenario, law: Law) -> None:
        self._scenario, self._law, self._goal = scenario, law, scenario.goal
        self._agenda = Agenda()
        chance = [random.Random(f"{scenario.seed}/{what}") for what in ("pods", "steps", "routes")]
        self._cluster, self._stepper = self._make(scenario, chance[0], chance[1])
        self._router = Router(
            scenario, self._agenda, chance[2], self._cluster.pods, self._stepper.add, self._ended, self._cluster.left
        )
        self._router_target = self._router.counters.target(ROUTER)
        self._classes = {c.name: c for c in self._goal.classes}
        self._requests: list[Request] = []
        self._open = 0
        self._latencies = Latencies()
        self._gaps_s: dict[str, array[float]] = {name: array("d") for name in self._classes}
        self._moments: list[Moment] = []
        self._decisions: list[Decision] = []
        self._last_plan: Plan | None = None
        self._scraped: set[str] = set()
        self._arrived = 0
        self._is_called = False
        self.late_first_tokens: Counter[str] = Counter()
        """By class, so far."""

    def _make(
        self, scenario: Scenario, pods: random.Random, steps: random.Random
    ) -> tuple[Cluster, Stepper | FastStepper]:
        """What another fidelity has other ones of."""
        cluster = Cluster(scenario, self._agenda, pods, self._lost, self._pods_changed)
        return cluster, Stepper(scenario.replica, self._agenda, steps, self._first_token, self._part_done)

    def run(self, trace: Sequence[Arrival], progress: Progress | None = None) -> FleetResult:
        """Until every request of `trace` (in order of time) has ended."""
        self._requests = [Request(asked, self._classes[asked.service_class]) for asked in trace]
        self._open = len(trace)
        self._cluster.begin()
        self._begin_scrapes()
        self._agenda.at(self._goal.interval_s, self._tick)
        arrivals = iter(self._requests)
        self._next_arrival(arrivals.__next__)
        reported = 0
        while self._open:
            self._agenda.step()
            if progress is not None and len(trace) - self._open >= reported:
                reported += max(1, len(trace) // 200)
                progress(self._agenda.now_s, len(trace) - self._open, len(trace))
        return self._result()

    def _next_arrival(self, take: Callable[[], Request]) -> None:
        try:
            request = take()
        except StopIteration:
            return
        self._agenda.at(request.asked.time_s, partial(self._arrive, request, take))

    def _arrive(self, request: Request, take: Callable[[], Request]) -> None:
        self._arrived += 1
        self._next_arrival(take)
        self._router.arrive(request)
        if self._goal.may_sleep and not self._is_called and not any(self._cluster.desired.values()):
            self._is_called = True
            self._agenda.after(ASLEEP_S, self._decide)

    # What the parts tell each other

    def _first_token(self, request: Request) -> None:
        is_first = request.first_token_s is None
        self._router.first_token(request)
        if is_first:
            self._latencies.first_token(request)
            self.late_first_tokens[request.service_class.name] += not request.is_ttft_met

    def _part_done(self, pod: Pod, part: Part) -> None:
        if not part.is_prompt_only:
            self._keep_gaps(part)
        self._router.part_done(pod, part)
        if not part.is_prompt_only:
            self._latencies.answer(part.request)
        self._cluster.left(pod)

    def _lost(self, pod: Pod, part: Part) -> None:
        count_gaps(pod, part)
        self._keep_gaps(part)
        self._router.lost(part.request)

    def _keep_gaps(self, part: Part) -> None:
        self._gaps_s[part.request.service_class.name].extend(part.gaps_s)
        part.gaps_s, part.judged = [], 0

    def _pods_changed(self) -> None:
        for pod in self._cluster.pods:
            if pod.name not in self._scraped and pod.state is PodState.READY:
                self._scraped.add(pod.name)
                self._agenda.after(self._phase_s(pod.name), partial(self._scrape_pod, pod))
        self._router.fleet_changed()

    def _ended(self, request: Request) -> None:
        self._open -= 1

    # Scrapes

    def _begin_scrapes(self) -> None:
        self._agenda.at(self._phase_s(ROUTER), self._scrape_router)

    def _phase_s(self, name: str) -> float:
        """Prometheus scrapes each target at an offset of its own within the interval, by a hash of its address."""
        return self._scenario.scrape_s * (crc32(f"{self._scenario.seed}/{name}".encode()) % 1000) / 1000

    def _scrape_router(self) -> None:
        self._router_target.scrape(self._agenda.now_s, self._router.counters.values())
        self._agenda.after(self._scenario.scrape_s, self._scrape_router)

    def _scrape_pod(self, pod: Pod) -> None:
        if pod.state is PodState.GONE:
            return
        if pod.process is not None:
            for part in pod.parts:
                count_gaps(pod, part)
            pod.target.scrape(self._agenda.now_s, pod.process.counters.values())
        self._agenda.after(self._scenario.scrape_s, partial(self._scrape_pod, pod))

    # Decisions

    def observe(self) -> Observation:
        """What the operator would know now."""
        now_s, cluster = self._agenda.now_s, self._cluster
        oldest_s = now_s - range_s(None)
        series = [*self._router_target.since(oldest_s), *self._engine_series(oldest_s)]
        pools, start_up_s = cluster.seen(), cluster.start_up_s
        seen = observed(self._goal, series, pools, start_up_s, now_s, self._ready_since())
        return seen or nothing_known(self._goal, pools, start_up_s, now_s, "no scrape yet")

    def _engine_series(self, oldest_s: float) -> list[Series]:
        return [s for pod in self._cluster.everyone() for s in pod.target.since(oldest_s)]

    def _ready_since(self) -> ReadySince:
        return self._cluster.ready_since()

    def _tick(self) -> None:
        self._decide()
        self._agenda.after(self._goal.interval_s, self._tick)

    def _decide(self) -> None:
        self._is_called = False
        before, seen = dict(self._cluster.desired), self.observe()
        if self._goal.may_sleep:
            seen = replace(seen, calls=self._router.calls())
        sizing = self._law.decide(self._view(seen))
        self._last_plan = sizing.plan or self._last_plan
        self._router.slack = slack_of(sizing.plan.capacity) if sizing.plan else None
        self._remember(seen)
        if dict(sizing.sizes) != before:
            reason = str(sizing.plan.reason) if sizing.plan else self._law.name
            self._decisions.append(
                Decision(
                    time_s=self._agenda.now_s, before=before, after=dict(sizing.sizes), reason=reason, why=sizing.why
                )
            )
            self._cluster.resize(sizing.sizes, sizing.plan.flip if sizing.plan else None)

    def _view(self, seen: Observation) -> View:
        return View(
            now_s=self._agenda.now_s,
            observation=seen,
            in_flight=self._in_flight(),
            latency=partial(self._latencies.worst, now_s=self._agenda.now_s),
            kv_usage=self._kv_usage,
        )

    def _kv_usage(self, pool: Pool) -> float | None:
        found = [pod.process.engine.kv_usage for pod in self._cluster.pods if pod.pool is pool and pod.process]
        return sum(found) if found else None

    def _in_flight(self) -> dict[Pool, float | None]:
        """As scraped last: an engine's first three series are its requests waiting, in prefill and in decode."""
        found: dict[Pool, float | None] = {}
        for goal in self._goal.pools:
            samples = [pod.target.newest for pod in self._cluster.pods if pod.pool is goal.pool]
            known = [sum(sample[:3]) for sample in samples if sample is not None]
            found[goal.pool] = sum(known) if known else None
        return found

    def _remember(self, seen: Observation) -> None:
        live = [pod.live() for pod in self._cluster.pods]
        self._moments.append(
            Moment(
                time_s=self._agenda.now_s,
                arrivals_rps=self._arrived / self._goal.interval_s,
                waiting_prompt_tokens=self._router.counters.waiting_prompt_tokens,
                decodes=sum(decodes for _, _, decodes in live),
                desired=dict(self._cluster.desired),
                ready={p.pool: p.ready for p in seen.pools},
                gpus=self._cluster.gpus,
            )
        )
        self._arrived = 0

    def _result(self) -> FleetResult:
        end_s = self._agenda.now_s
        return FleetResult(
            law=self._law.name,
            policy=self._scenario.policy,
            end_s=end_s,
            steps=self._stepper.steps,
            gpu_hours={pool: s / 3600 for pool, s in self._cluster.gpu_seconds(end_s).items()},
            classes=[class_result(c, self._requests, self._gaps_s[c.name]) for c in self._goal.classes],
            moments=self._moments,
            decisions=self._decisions,
            last_plan=self._last_plan,
            requests=self._requests,
            gaps_s=self._gaps_s,
        )
