"""The engines as this router knows them: who exists, what it sent there, how fast prompts come back, who failed.

Discovery replaces the set; routing (core) chooses from a snapshot. Who waits for an engine: `waiting_room.py`. One
event loop, no locks, no I/O.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import TracebackType

from llmservice_core.model import Pool
from llmservice_core.picking import UNBOUNDED, Policy, Room, Saved
from llmservice_core.prompt_pace import PromptPace
from llmservice_core.routing import Endpoint, NoRoute, Route, choose, decode_instead, usable
from llmservice_core.slack import Slack


@dataclass(slots=True, eq=False)
class Load:
    """What this router has sent to one engine and not got back yet. Never negative."""

    work_tokens: float = 0.0
    in_flight: int = 0


class Lease:
    """A reservation of predicted work on one engine, given back when its `with` block ends."""

    def __init__(self, fleet: "Fleet", endpoint: Endpoint, work_tokens: float):
        self._fleet, self.endpoint, self.work_tokens = fleet, endpoint, work_tokens
        self._load = Load()
        self._is_open = False

    def __enter__(self) -> "Lease":
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def open(self) -> "Lease":
        self._load = self._fleet._take(self.endpoint.name, self.work_tokens)
        self._is_open = True
        return self

    def close(self) -> None:
        """Once; what comes later says nothing."""
        if self._is_open:
            self._is_open = False
            self._fleet._give_back(self.endpoint.name, self.work_tokens)

    def progress(self, tokens: float) -> None:
        """Part of the work is done. An answer longer than predicted counts as nearly done, not as negative work."""
        left = self.work_tokens - tokens
        if left <= 0.0:
            left = 0.0
        load = self._load
        load.work_tokens = max(0.0, load.work_tokens - (self.work_tokens - left))
        self.work_tokens = left

    def move(self, endpoint: Endpoint) -> None:
        """The same work on another engine."""
        self._fleet._give_back(self.endpoint.name, self.work_tokens)
        self.endpoint = endpoint
        self._load = self._fleet._take(endpoint.name, self.work_tokens)


class Fleet:
    """Endpoints, leases, prompts and exclusions. `on_change` is called when a request that waits may find an engine."""

    def __init__(
        self,
        *,
        policy: Policy = Policy.SHORTEST_QUEUE,
        exclude_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ):
        self.policy, self.clock = policy, clock
        self.slack: Slack | None = None
        """Which prompts decode engines may compute; None: none that another engine could."""
        self.awaits_engines = False
        """The service says that engines are on their way in the place of those that go."""
        self.on_change: Callable[[], None] = lambda: None
        self._exclude_s, self._draw = exclude_s, draw
        self._known: dict[str, Endpoint] = {}
        self._load: dict[str, Load] = {}
        self._excluded_until_s: dict[str, float] = {}
        self._paces: dict[str, PromptPace] = {}
        self._started_s = clock()
        self.asked_s: float | None = None
        """When a request last wanted an engine or gave one back; None: none has come yet."""

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """What discovery sees now. Leases on engines that vanished stay until they are given back."""
        self._known = {e.name: e for e in endpoints}
        self._paces = {name: p for name, p in self._paces.items() if name in self._known or p.held.prompts}
        self.on_change()

    def names(self) -> list[str]:
        return list(self._known)

    def snapshot(self) -> list[Endpoint]:
        return [self._with_load(e) for e in self._known.values()]

    def choose(
        self,
        *,
        one_step: bool,
        avoid: Iterable[str] = (),
        model: str | None = None,
        saved: Saved | None = None,
        room: Room = UNBOUNDED,
        prompt_tokens: float = math.inf,
    ) -> Route | NoRoute:
        """Without engines that failed a moment ago, that this request has tried (`avoid`), or of another `model`."""
        excluded = self._excluded() | set(avoid)
        return choose(
            [self._with_load(e) for e in self._able() if model is None or e.model == model],
            one_step=one_step,
            policy=self.policy,
            excluded=excluded,
            draw=self._draw(),
            saved=saved,
            room=room,
            slack=self.slack,
            prompt_tokens=prompt_tokens,
        )

    def prompt_engines(self, *, one_step: bool) -> list[Endpoint]:
        """Those that may compute a prompt of this kind now."""
        pools = (Pool.MIXED, Pool.DECODE) if one_step else (Pool.PREFILL, Pool.MIXED)
        found = (usable(self._able(), pool, self._excluded()) for pool in pools)
        return next((engines for engines in found if engines), [])

    def _able(self) -> list[Endpoint]:
        """Pods that go because new ones are on their way are no last resort: work would only hold them, and the others
        wait for their GPUs."""
        return [e for e in self._known.values() if not (e.deleted and self.awaits_engines)]

    def pace(self, name: str) -> PromptPace:
        return self._paces.setdefault(name, PromptPace())

    def decode_instead(self, endpoint: Endpoint) -> Endpoint:
        """The reserved decode engine, or another of its revision if that one is leaving: its KV is not pulled yet."""
        return decode_instead(self.snapshot(), endpoint, self._excluded())

    def lease(self, endpoint: Endpoint, work_tokens: float) -> Lease:
        return Lease(self, endpoint, work_tokens)

    def exclude(self, name: str) -> None:
        """An engine failed: nothing new goes there for a moment. Those that wait are told when it is over."""
        self._excluded_until_s[name] = self.clock() + self._exclude_s
        asyncio.get_running_loop().call_later(self._exclude_s + 0.01, lambda: self.on_change())

    def state_of(self, endpoint: Endpoint) -> str:
        """One word for metrics and logs."""
        if endpoint.draining:
            return "draining"
        if not endpoint.ready:
            return "not_ready"
        return "excluded" if endpoint.name in self._excluded() else "ready"

    def told(self) -> dict[str, dict[str, str | int | float]]:
        """Each engine that exists or that we still have requests on: what the operator asks before one may leave."""
        gone = {name: ("gone", load) for name, load in self._load.items() if name not in self._known}
        here = {name: (self.state_of(e), self._load.get(name, NOTHING)) for name, e in self._known.items()}
        return {
            name: {"state": state, "in_flight": load.in_flight, "work_tokens": load.work_tokens}
            for name, (state, load) in {**gone, **here}.items()
        }

    def calls(self, waiting: int) -> dict[str, float | int | None]:
        """`model.Calls` of this router alone: what the operator asks of a service that may sleep."""
        now_s = self.clock()
        last_s = None if self.asked_s is None else now_s - self.asked_s
        if waiting or self._load:
            last_s = 0.0
        return {"quiet_s": now_s - self._started_s if last_s is None else last_s, "last_s": last_s, "waiting": waiting}

    def _excluded(self) -> set[str]:
        if not self._excluded_until_s:
            return set()
        now_s = self.clock()
        self._excluded_until_s = {n: until for n, until in self._excluded_until_s.items() if until > now_s}
        return set(self._excluded_until_s)

    def _with_load(self, endpoint: Endpoint) -> Endpoint:
        load = self._load.get(endpoint.name)
        if load is None:
            return endpoint
        held = self.pace(endpoint.name).held
        return replace(
            endpoint,
            work_tokens=load.work_tokens,
            in_flight=load.in_flight,
            prompts=int(held.prompts),
            prompt_tokens=held.tokens,
        )

    def _take(self, name: str, work_tokens: float) -> Load:
        self.asked_s = self.clock()
        load = self._load.setdefault(name, Load())
        load.work_tokens += work_tokens
        load.in_flight += 1
        return load

    def _give_back(self, name: str, work_tokens: float) -> None:
        self.asked_s = self.clock()
        load = self._load[name]
        load.work_tokens = max(0.0, load.work_tokens - work_tokens)
        load.in_flight -= 1
        if not load.in_flight:
            del self._load[name]


NOTHING = Load()
