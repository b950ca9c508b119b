"""Requests that wait for an engine, in the core's order, each until its turn, its refusal, or its client's leaving.

An engine holds about two steps of prompts, the rest waits here, where the order can still be changed: a strict request
that comes now passes a thousand relaxed ones. Everything is decided by the core (`line`, `routing`, `prompt_pace`);
here are the futures. One event loop, no locks.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

from llmservice_core.affinity import PrefixMemory, of_session
from llmservice_core.line import Amount, Line, Services, Waiter
from llmservice_core.model import Pool
from llmservice_core.picking import STEPS_HELD, UNBOUNDED, Policy, Room, Saved
from llmservice_core.prompt_pace import Expected, Lag, expect
from llmservice_core.routing import NoRoute, Route, RouteReason
from llmservice_serving.router.errors import Overload, Refusal, Shed, late, queue_full, starting
from llmservice_serving.router.fleet import Fleet
from llmservice_serving.router.grants import Grant

STEP_TOKENS = 2048
"""vLLM's own default of a step for servers, where neither the resource nor a setting says another."""
MOST_COUNTED = 256
"""In longer lines nobody counts what stands before a request that would not be refused anyway."""
LOOK_PAST = 8
"""So many requests that wait for one certain engine may be passed in one round by those behind them."""


@dataclass(slots=True, eq=False, kw_only=True)
class Seeker:
    """A request that wants an engine. `waiter` is what the core's line sees of it."""

    waiter: Waiter
    one_step: bool
    output_tokens: float
    sheds_late: bool
    blocks: tuple[bytes, ...] = ()
    """Hashes of its prompt's beginning, under routing by prefix."""
    session: str | None = None
    avoid: Collection[str] = ()
    """Engines that failed it: the last resort."""
    model: str | None = None
    """Weights that its answer began with; None: it has not begun."""
    expected: Expected | None = None
    """When its first token will come, as it was told on arrival; None: unknown."""
    entered_s: float = 0.0
    grant: asyncio.Future[Grant] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True, kw_only=True)
class WaitingRoom:
    """Two lines: requests in two steps, and those in one; in a mixed pool they share engines and are compared."""

    fleet: Fleet
    wait_for_endpoint_s: float
    queue_tokens: int
    wait_for_start_s: float = 0.0
    start_up_s: float | None = None
    """See `ServiceConfig`: while it is a number, requests without an engine are held for `wait_for_start_s`."""
    step_tokens: int = STEP_TOKENS
    routers: Callable[[], int | None] = lambda: None
    """Ready routers, which share the engines' room."""
    services: Services = field(default_factory=Services)
    lag: Lag = field(default_factory=Lag)
    memory: PrefixMemory = field(default_factory=PrefixMemory)
    _lines: dict[bool, Line] = field(default_factory=dict)
    _stranded_s: dict[bool, float] = field(default_factory=dict)
    """Since when no engine exists for this kind, however long one waits."""
    _seekers: dict[Waiter, Seeker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lines = {one_step: Line(self.services) for one_step in (False, True)}
        self.fleet.on_change = self.fleet_changed

    def __len__(self) -> int:
        return len(self._seekers)

    def waiting_tokens(self, service_class: str) -> float:
        return self._waiting(service_class).tokens

    def fleet_changed(self) -> None:
        if self.fleet.policy is Policy.PREFIX_AFFINITY:
            self.memory.keep_only(self.fleet.names())
        self.pump()

    async def turn(self, seeker: Seeker, queued: Callable[[], AbstractContextManager[object]]) -> Grant:
        """When it is its turn. A refusal instead; `queued` is entered while it waits."""
        line, now_s = self._lines[seeker.one_step], self.fleet.clock()
        seeker.entered_s = self.fleet.asked_s = now_s
        line.add(seeker.waiter)
        self._seekers[seeker.waiter] = seeker
        try:
            if seeker.sheds_late or len(line) <= MOST_COUNTED:
                seeker.expected = self._expect(seeker, line, now_s)
            self._refuse_if_late(seeker)
            self._try_again_at_once(seeker)
            self.pump()
            if not seeker.grant.done():
                self._keep_within_bounds(seeker)
                with queued():
                    await self._granted(seeker)
            return seeker.grant.result()
        except BaseException:
            self._withdraw(seeker)
            raise

    def pump(self) -> None:
        """Gives out engines as long as the first in line finds one."""
        passed: set[Waiter] = set()
        closed: set[bool] = set()
        while (seeker := self._next(passed, closed)) is not None:
            route = self._choose(seeker)
            if isinstance(route, Route):
                self._stranded_s.pop(seeker.one_step, None)
                self._give(seeker, route)
            elif route.reason is RouteReason.FULL:
                self._stranded_s.pop(seeker.one_step, None)
                passed.add(seeker.waiter)
                if (not seeker.blocks and seeker.session is None) or len(passed) > LOOK_PAST:
                    closed.add(seeker.one_step)
            else:
                self._stranded_s.setdefault(seeker.one_step, self.fleet.clock())
                closed.add(seeker.one_step)

    def _try_again_at_once(self, seeker: Seeker) -> None:
        """It had its turn, and an engine failed: it has waited enough."""
        if seeker.waiter.is_charged:
            route = self._choose(seeker)
            if isinstance(route, Route):
                self._give(seeker, route)

    def _next(self, passed: Collection[Waiter], closed: Collection[bool]) -> Seeker | None:
        now_s = self.fleet.clock()
        lines = [line for one_step, line in self._lines.items() if one_step not in closed and len(line)]
        heads = [(line, head) for line in lines if (head := line.first(now_s, passed)) is not None]
        if not heads:
            return None
        _, waiter = heads[0] if len(heads) == 1 else min(heads, key=lambda pair: pair[0].key(pair[1], now_s))
        return self._seekers[waiter]

    def _choose(self, seeker: Seeker) -> Route | NoRoute:
        saved, tokens = self._saved(seeker), seeker.waiter.prompt_tokens
        room = UNBOUNDED if seeker.waiter.is_charged else self._room()
        choose = partial(self.fleet.choose, one_step=seeker.one_step, model=seeker.model)
        choose = partial(choose, saved=saved, room=room, prompt_tokens=tokens)
        if seeker.avoid:
            route = choose(avoid=seeker.avoid)
            if isinstance(route, Route) or route.reason is RouteReason.FULL:
                return route
        return choose()

    def _room(self) -> Room:
        """Two steps of the engine, less where other routers send it as much."""
        routers = max(1, self.routers() or 1)
        return Room(tokens=STEPS_HELD * self.step_tokens / routers)

    def _saved(self, seeker: Seeker) -> Saved:
        """By what the policy believes to be in the engines' caches."""
        tokens = seeker.waiter.prompt_tokens
        if seeker.blocks:
            engines = self.fleet.prompt_engines(one_step=seeker.one_step)
            return {e.name: tokens * share for e in engines if (share := self.memory.share(e.name, seeker.blocks))}
        if seeker.session is not None:
            names = [e.name for e in self.fleet.prompt_engines(one_step=seeker.one_step)]
            engine = of_session(seeker.session, names)
            return {} if engine is None else {engine: tokens}
        return {}

    def _give(self, seeker: Seeker, route: Route) -> None:
        waiter = seeker.waiter
        self._lines[seeker.one_step].take(waiter)
        del self._seekers[waiter]
        tokens: float = waiter.prompt_tokens
        if seeker.blocks:
            name = route.prompt_engine.name
            tokens -= round(tokens * self.memory.share(name, seeker.blocks))
            self.memory.sent(name, seeker.blocks)
        seeker.grant.set_result(Grant(self.fleet, route, tokens, seeker.output_tokens))

    def _withdraw(self, seeker: Seeker) -> None:
        """Out of the line at once, or what it has been given in this very moment goes back."""
        if self._seekers.pop(seeker.waiter, None) is not None:
            self.fleet.asked_s = self.fleet.clock()
            self._lines[seeker.one_step].remove(seeker.waiter)
        if seeker.grant.done() and not seeker.grant.cancelled() and seeker.grant.exception() is None:
            seeker.grant.result().close()

    async def _granted(self, seeker: Seeker) -> None:
        while not seeker.grant.done():
            await asyncio.wait((seeker.grant,), timeout=max(0.0, self._patience_s(seeker)))
            if not seeker.grant.done():
                self._refuse_if_it_waits_in_vain(seeker)

    def _patience_s(self, seeker: Seeker) -> float:
        """Until something may have to be said to it."""
        now_s = self.fleet.clock()
        since_s = self._stranded_s.get(seeker.one_step)
        begin_s = now_s if since_s is None else max(since_s, seeker.entered_s)
        return min(begin_s + self._wait_for_engine_s, self._hopeless_s(seeker)) - now_s

    @property
    def _wait_for_engine_s(self) -> float:
        return self.wait_for_endpoint_s if self.start_up_s is None else self.wait_for_start_s

    def _hopeless_s(self, seeker: Seeker) -> float:
        """From when on its target cannot be met; infinite for those that wait all the same."""
        target_s = seeker.waiter.ttft_s
        if not seeker.sheds_late or target_s is None:
            return math.inf
        service_s = seeker.expected.service_s if seeker.expected else 0.0
        return seeker.waiter.arrival_s + target_s - service_s

    def _refuse_if_it_waits_in_vain(self, seeker: Seeker) -> None:
        self.pump()
        now_s = self.fleet.clock()
        since_s = self._stranded_s.get(seeker.one_step)
        if seeker.grant.done():
            return
        if since_s is not None and now_s >= max(since_s, seeker.entered_s) + self._wait_for_engine_s:
            route = self.fleet.choose(one_step=seeker.one_step)
            if isinstance(route, NoRoute):
                raise self._no_start(seeker, None) or Shed(route.reason.value, route.message)
        if now_s >= self._hopeless_s(seeker):
            expected = self._expect(seeker, self._lines[seeker.one_step], now_s)
            target_s = seeker.waiter.ttft_s or 0.0
            raise self._no_start(seeker, target_s) or late(expected, target_s)

    def _no_start(self, seeker: Seeker, target_s: float | None) -> Overload | None:
        """The refusal of one that would have to wait for an engine's start; None where none is to be waited for."""
        if self.start_up_s is None or self.fleet.prompt_engines(one_step=seeker.one_step):
            return None
        now_s = self.fleet.clock()
        left_s = self.start_up_s - (now_s - self._stranded_s.get(seeker.one_step, now_s))
        return starting(max(1.0, left_s), target_s)

    def _refuse_if_late(self, seeker: Seeker) -> None:
        target_s, expected = seeker.waiter.ttft_s, seeker.expected
        refusal = self._no_start(seeker, target_s) if seeker.sheds_late and target_s is not None else None
        if refusal is not None and (self.start_up_s or 0.0) > (target_s or 0.0):
            raise refusal
        if seeker.sheds_late and target_s is not None and expected and expected.late_by_s(target_s) > 0:
            raise late(expected, target_s)

    def _expect(self, seeker: Seeker, line: Line, now_s: float) -> Expected | None:
        waiter = seeker.waiter
        engines = self.fleet.prompt_engines(one_step=seeker.one_step)
        is_pair = bool(engines) and engines[0].pool is Pool.PREFILL
        return expect(
            [self.fleet.pace(e.name) for e in engines],
            own=Amount(1, waiter.prompt_tokens),
            ahead=line.ahead(waiter, now_s),
            after_s=self.lag.at(now_s) if is_pair else 0.0,
            age_s=now_s - waiter.arrival_s,
            now_s=now_s,
        )

    def _keep_within_bounds(self, seeker: Seeker) -> None:
        """While a class has too much waiting, the last of the tenant with most of it is refused: it may be another."""
        name = seeker.waiter.service_class
        while self._waiting(name).tokens > self.queue_tokens:
            victim = self._victim(name)
            refusal = self._full(victim)
            if victim is seeker:
                raise refusal
            self._refuse(victim, refusal)

    def _victim(self, service_class: str) -> Seeker:
        tokens: Counter[str] = Counter()
        for line in self._lines.values():
            tokens.update(line.by_tenant(service_class))
        heaviest, _ = tokens.most_common(1)[0]
        last = (line.newest(service_class, heaviest) for line in self._lines.values())
        return self._seekers[max((w for w in last if w is not None), key=lambda w: w.arrival_s)]

    def _full(self, victim: Seeker) -> Refusal:
        """With the time after which so much of it will be gone."""
        over = Amount(0, self._waiting(victim.waiter.service_class).tokens - self.queue_tokens)
        engines = self.fleet.prompt_engines(one_step=victim.one_step)
        paces = [self.fleet.pace(e.name) for e in engines]
        now_s = self.fleet.clock()
        drain = expect(paces, own=Amount(), ahead=over, after_s=0.0, age_s=0.0, now_s=now_s)
        return queue_full(self.queue_tokens, drain.queue_s if drain else None)

    def _refuse(self, victim: Seeker, refusal: Refusal) -> None:
        del self._seekers[victim.waiter]
        self._lines[victim.one_step].remove(victim.waiter)
        victim.grant.set_exception(refusal)

    def _waiting(self, service_class: str) -> Amount:
        return sum((line.waiting(service_class) for line in self._lines.values()), Amount())
