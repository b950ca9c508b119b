"""Keeps one LLMService as it should be: decide, render, apply, tell. One keeper per service is the lock per service.

Level-triggered: every pass starts from what lives now, so a lost event or a restart costs one interval at most.
Changes of the service or its children only make a pass come sooner; decisions keep their own rhythm.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llmservice_api.resource import LLMService
from llmservice_core.model import Calls, Mode, Pool, PoolSeen
from llmservice_operator import (
    children,
    leaving,
    metrics,
    observe_pods,
    observe_work,
    replace_revision,
    rollout,
    trouble,
)
from llmservice_operator.apply import Applier, Writes
from llmservice_operator.children import Rendering
from llmservice_operator.decide import Decision, decide, pools_seen
from llmservice_operator.errors import Misconfigured, NotReady, OperatorError, ServiceGone
from llmservice_operator.facts import Facts
from llmservice_operator.kinds import DEPLOYMENT, POD, POD_MONITOR, Manifest
from llmservice_operator.last_words import LastWords
from llmservice_operator.replace_revision import Replacement
from llmservice_operator.teller import Teller
from llmservice_operator.world import World

GATHER_S = 0.2
"""Changes come in bursts: so long we wait for the rest of one."""
REPAIRED_S = 2.0
"""After a repair we look again this much later: whoever fights us then costs no more than a write in two seconds."""
RETRY_S = 5.0
ASLEEP_S = 1.0
"""How often the routers of a service that sleeps are asked whether a request came."""
DRAINING_S = 1.0
"""How often pods that drain are asked whether they are done."""

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a pass found and did, filled step by step, so that a pass that breaks off can still be told of."""

    pools: tuple[PoolSeen, ...] = ()
    revision: str | None = None
    rolling_out: bool = False
    writes: Writes = field(default_factory=Writes)
    replacement: Replacement | None = None
    drains: bool = False
    """A pod stays beyond the size of its pool, because it still drains."""
    problem: tuple[str, str] | None = None


@dataclass(slots=True)
class Keeper:
    world: World
    service: LLMService
    applier: Applier = field(init=False)
    teller: Teller = field(init=False)
    last_words: LastWords = field(init=False)
    decision: Decision | None = None
    sizes: dict[Pool, int] = field(default_factory=dict)
    """As decided last; what a deleted Deployment comes back with."""
    decided_s: float = float("-inf")
    decided_for: tuple[int, str] = (0, "")
    passed_s: float = float("-inf")
    last_problem: tuple[str, str] | None = None
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.applier = Applier(self.world.cluster, self.world.watches)
        self.last_words = LastWords(self.world.cluster)
        self.teller = Teller(self.world, self.service.status)
        self.sizes = self.teller.sizes_shown()
        self.decided_for = (0, (self.service.status.revision or "") if self.service.status else "")

    def wake(self) -> None:
        self._woken.set()

    def saw(self, service: LLMService) -> None:
        """A version of the resource. Our own status comes back this way, too, and is no reason to hurry."""
        changed = service.metadata.generation != self.service.metadata.generation
        self.service = service
        if changed:
            self.wake()

    async def run(self) -> None:
        """Until the service is gone."""
        await self.world.watches.synced.wait()
        while True:
            self._woken.clear()
            self.passed_s = time.monotonic()
            try:
                with metrics.RECONCILE_SECONDS.time():
                    outcome = await self.pass_once(self.service)
            except ServiceGone:
                return
            await self._pause(outcome)

    async def _pause(self, outcome: Outcome) -> None:
        """Until the next decision is due or something changed; after a failure that may pass not that long."""
        now_s, interval_s = time.monotonic(), self.service.to_goal().interval_s
        left_s = self.decided_s + interval_s - now_s
        if left_s <= 0:
            left_s = self.passed_s + interval_s - now_s
        if outcome.problem is not None and outcome.problem[0] != Misconfigured.reason:
            left_s = min(left_s, RETRY_S)
        if outcome.drains:
            left_s = min(left_s, DRAINING_S)
        gather_s = REPAIRED_S if outcome.writes.restored else GATHER_S
        with self._listening(), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(left_s, gather_s)):
                await self._woken.wait()
                await asyncio.sleep(gather_s)

    async def pass_once(self, service: LLMService) -> Outcome:
        """One pass; only ServiceGone leaves it. What went wrong is told, and the next pass tries again."""
        outcome = Outcome()
        await self._guarded(self._act(service, outcome), outcome)
        if outcome.problem is not None and outcome.problem != self.last_problem:
            log.warning("%s: %s: %s", service.key, *outcome.problem)
        self.last_problem = outcome.problem
        await self._guarded(self._tell(service, outcome), outcome)
        return outcome

    async def _guarded(self, work: Coroutine[None, None, None], outcome: Outcome) -> None:
        """A failure becomes the outcome's problem: it must stop neither this service nor the others."""
        try:
            await work
        except ServiceGone:
            raise
        except OperatorError as error:
            self._failed(outcome, error)
        except Exception as error:
            log.exception("%s: a pass failed", self.service.key)
            self._failed(outcome, NotReady(f"internal error, {type(error).__name__}: {error}"))

    def _failed(self, outcome: Outcome, error: OperatorError) -> None:
        metrics.RECONCILE_ERRORS.labels(self.service.key, error.reason).inc()
        outcome.problem = (error.reason, str(error))

    async def _act(self, service: LLMService, outcome: Outcome) -> None:
        # A spec that cannot be rendered takes nothing from what serves.
        outcome.pools = pools_seen(self.world, service, self.sizes)
        rendering = children.look(service, self.world.settings)
        outcome.revision = rendering.revision
        deployments = self._engines(service)
        before = rollout.decided(service, rendering.revision, deployments, self.sizes)
        outcome.pools = pools_seen(self.world, service, before)
        # Repairs and drains first: they must not wait for a Prometheus that does not answer.
        await self._converge(service, rendering, outcome, before)
        self.sizes = before
        sizes = await self._decide(service, rendering, outcome, before)
        if sizes != before:
            await self._resize(service, rendering, outcome, sizes)
        if outcome.writes.refused:
            raise next(iter(outcome.writes.refused.values()))

    async def _resize(
        self, service: LLMService, rendering: Rendering, outcome: Outcome, sizes: dict[Pool, int]
    ) -> None:
        """What was written is told as decided; where that is not all of it, the next pass decides anew."""
        try:
            await self._converge(service, rendering, outcome, sizes)
        finally:
            deployments = self._engines(service)
            self.sizes = rollout.decided(service, rendering.revision, deployments, self.sizes)
            if self.sizes != sizes:
                self.decided_s = float("-inf")

    async def _decide(
        self, service: LLMService, rendering: Rendering, outcome: Outcome, before: dict[Pool, int]
    ) -> dict[Pool, int]:
        """The sizes to have: as before, unless a decision is due and may be applied."""
        mode, context = service.spec.scaling.mode, (service.metadata.generation, rendering.revision)
        if mode is Mode.OFF:
            self.decision = None
            return before
        exist = {p.pool for p in outcome.pools} == set(before)
        is_due = time.monotonic() - self.decided_s >= service.to_goal().interval_s or context != self.decided_for
        if not exist or not is_due:
            return before
        memory = self.teller.memory
        if memory is not None and self.decided_for[1] not in ("", rendering.revision):
            memory = memory.without_capacity()
        self.decision = await decide(self.world, service, outcome.pools, memory, await self._calls(service))
        self.decided_s, self.decided_for, self.teller.memory = time.monotonic(), context, self.decision.memory
        metrics.decided(service, self.decision.observation, self.decision.plan)
        planned = {pool: self.decision.plan.replicas(pool) for pool in before}
        if mode is not Mode.AUTO:
            return before
        return {p: rollout.bounded(service, p, before[p] if n is None else n) for p, n in planned.items()}

    async def _calls(self, service: LLMService) -> Calls | None:
        """Nobody is asked where no pool may be empty."""
        if not service.to_goal().may_sleep:
            return None
        return await observe_work.calls(self.world.http, self.world.watches.of(POD, service.key))

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        is_asleep = self.service.to_goal().may_sleep and not any(self.sizes.values())
        task = asyncio.create_task(self._listen()) if is_asleep else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    async def _listen(self) -> None:
        """A service that sleeps is decided on as soon as a request comes."""
        after_s = self.service.to_goal().idle_after_s
        while (calls := await self._calls(self.service)) is None or calls.last_s is None or calls.last_s >= after_s:
            await asyncio.sleep(ASLEEP_S)
        self.decided_s = float("-inf")
        self.wake()

    async def _converge(
        self, service: LLMService, rendering: Rendering, outcome: Outcome, sizes: Mapping[Pool, int]
    ) -> None:
        watches, deployments = self.world.watches, self._engines(service)
        revision, pods = rendering.revision, watches.of(POD, service.key)
        outdated = rollout.names(rollout.outdated(revision, rendering.templates, deployments))
        kept = outdated - rollout.names(rollout.removable(revision, rendering.templates, deployments))
        swap = replace_revision.look(service, revision, sizes, deployments, kept, pods, self.world.clock())
        outcome.rolling_out, outcome.replacement = bool(kept), swap
        pools = [await leaving.look(self.world, room) for room in swap.rooms()]
        outcome.drains = any(p.held for p in pools)
        wanted = children.render(
            service,
            self.world.settings,
            rendering,
            sizes,
            held={p.room.pool: p.held for p in pools if p.room.revision == revision},
            rollout=swap.partial,
            pod_monitors=watches.exists(POD_MONITOR),
        )
        await self.applier.converge(service, wanted, kept, outcome.writes)
        for pool in pools:
            if pool.room.successor:
                old = rollout.of_room(deployments, pool.room.pool, pool.room.revision)
                await self.applier.lower(old, pool.asked, outcome.writes)
            await leaving.carry_out(self.world, pool, self.teller.post_once, outcome.writes.refused)

    async def _tell(self, service: LLMService, outcome: Outcome) -> None:
        deployments = self._engines(service)
        now_s, pods = self.world.clock(), self.world.watches.of(POD, service.key)
        bare, unready = observe_pods.waiting_routers(pods, now_s)
        facts = Facts(
            service=service,
            now_s=now_s,
            pools=outcome.pools,
            sizes=self.sizes,
            router_ready=self._routers_ready(service),
            revision=outcome.revision,
            rolling_out=outcome.rolling_out,
            is_paused=outcome.replacement is not None and outcome.replacement.is_pause,
            rollout_limit=outcome.replacement.limit if outcome.replacement else None,
            observation=self.decision.observation if self.decision else None,
            plan=self.decision.plan if self.decision else None,
            routers_bare=bare,
            routers_unready=unready,
            trouble=await self._trouble(service, outcome, deployments),
            problem=outcome.problem,
        )
        await self.teller.tell(facts, outcome.writes.restored)

    async def _trouble(
        self, service: LLMService, outcome: Outcome, deployments: Sequence[Manifest]
    ) -> tuple[str, str, bool] | None:
        """Of the pod that does not become Ready, with the last lines of its log; whether a rollout waits for it."""
        every = self.world.watches.of(DEPLOYMENT, service.key)
        found = trouble.find(self.world.watches.of(POD, service.key), every, outcome.revision)
        words = await self.last_words.of(service, found)
        if found is None:
            return None
        earlier = rollout.serves(d for d in deployments if not rollout.is_current(d, outcome.revision or ""))
        stops = outcome.rolling_out and found.revision == outcome.revision
        return found.reason, trouble.sentence(found, words, earlier_serves=earlier if stops else None), stops

    def _engines(self, service: LLMService) -> list[Manifest]:
        return rollout.engines(self.world.watches.of(DEPLOYMENT, service.key))

    def _routers_ready(self, service: LLMService) -> int:
        found = rollout.router(self.world.watches.of(DEPLOYMENT, service.key))
        return int((found.get("status") or {}).get("readyReplicas", 0)) if found else 0
