"""The engines as this router knows them: who exists, what it sent there, who failed a moment ago, who waits for one.

Discovery replaces the set; routing (core) chooses from a snapshot. One event loop, no locks, no I/O.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType

from llmservice_core.model import Pool
from llmservice_core.routing import Endpoint, NoRoute, Policy, Route, Waiting, choose, queue_order


class Lease:
    """A reservation of predicted work on one engine, given back when its `with` block ends."""

    def __init__(self, fleet: "Fleet", endpoint: Endpoint, work_tokens: float):
        self._fleet, self.endpoint, self.work_tokens = fleet, endpoint, work_tokens

    def __enter__(self) -> "Lease":
        self._fleet._add(self.endpoint.name, self.work_tokens, 1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._fleet._add(self.endpoint.name, -self.work_tokens, -1)

    def progress(self, tokens: float) -> None:
        """Part of the work is done. An answer longer than predicted counts as nearly done, not as negative work."""
        done = min(tokens, self.work_tokens)
        self.work_tokens -= done
        self._fleet._add(self.endpoint.name, -done, 0)

    def move(self, endpoint: Endpoint) -> None:
        """The same work on another engine."""
        self._fleet._add(self.endpoint.name, -self.work_tokens, -1)
        self.endpoint = endpoint
        self._fleet._add(endpoint.name, self.work_tokens, 1)


class Fleet:
    """Endpoints, leases, exclusions and the queue in front of an empty fleet."""

    def __init__(
        self,
        *,
        policy: Policy = Policy.SHORTEST_QUEUE,
        exclude_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ):
        self._policy, self._exclude_s, self._clock, self._draw = policy, exclude_s, clock, draw
        self._known: dict[str, Endpoint] = {}
        self._load: dict[str, tuple[float, int]] = {}
        self._excluded_until_s: dict[str, float] = {}
        self._queue: list[tuple[Waiting, asyncio.Future[None]]] = []

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """What discovery sees now. Leases on engines that vanished stay until they are given back."""
        self._known = {e.name: e for e in endpoints}
        self._wake()

    def snapshot(self) -> list[Endpoint]:
        return [self._with_load(e) for e in self._known.values()]

    def choose(self, *, one_step: bool, avoid: Iterable[str] = ()) -> Route | NoRoute:
        """Without engines that failed a moment ago or that this request has tried (`avoid`)."""
        excluded = self._excluded() | set(avoid)
        return choose(self.snapshot(), one_step=one_step, policy=self._policy, excluded=excluded, draw=self._draw())

    def decode_instead(self, endpoint: Endpoint) -> Endpoint:
        """The reserved decode engine, or another of its revision if that one is leaving: its KV is not pulled yet."""
        if self.is_usable(endpoint.name):
            return endpoint
        mates = [e for e in self.snapshot() if (e.pool, e.revision) == (Pool.DECODE, endpoint.revision)]
        able = [e for e in mates if self.is_usable(e.name)]
        return min(able, key=lambda e: e.work_tokens, default=endpoint)

    def is_usable(self, name: str) -> bool:
        known = self._known.get(name)
        return known is not None and known.is_usable and name not in self._excluded()

    def lease(self, endpoint: Endpoint, work_tokens: float) -> Lease:
        return Lease(self, endpoint, work_tokens)

    def exclude(self, name: str) -> None:
        """An engine failed: nothing new goes there for a moment. Those that wait are told when it is over."""
        self._excluded_until_s[name] = self._clock() + self._exclude_s
        asyncio.get_running_loop().call_later(self._exclude_s + 0.01, self._wake)

    async def wait(self, waiting: Waiting, timeout_s: float) -> bool:
        """Until the fleet changes; False after `timeout_s`. Those that wait are woken in the order of the core."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (waiting, future)
        self._queue.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            if entry in self._queue:
                self._queue.remove(entry)
        return True

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
        here = {name: (self.state_of(e), self._load.get(name, (0.0, 0))) for name, e in self._known.items()}
        return {
            name: {"state": state, "in_flight": in_flight, "work_tokens": work_tokens}
            for name, (state, (work_tokens, in_flight)) in {**gone, **here}.items()
        }

    def _excluded(self) -> set[str]:
        if not self._excluded_until_s:
            return set()
        now_s = self._clock()
        self._excluded_until_s = {n: until for n, until in self._excluded_until_s.items() if until > now_s}
        return set(self._excluded_until_s)

    def _wake(self) -> None:
        now_s = self._clock()
        queue, self._queue = sorted(self._queue, key=lambda q: queue_order(q[0], now_s)), []
        for _, future in queue:
            if not future.done():
                future.set_result(None)

    def _with_load(self, endpoint: Endpoint) -> Endpoint:
        work_tokens, in_flight = self._load.get(endpoint.name, (0.0, 0))
        return replace(endpoint, work_tokens=work_tokens, in_flight=in_flight) if in_flight else endpoint

    def _add(self, name: str, work_tokens: float, requests: int) -> None:
        work, in_flight = self._load.get(name, (0.0, 0))
        in_flight += requests
        if in_flight > 0:
            self._load[name] = (max(0.0, work + work_tokens), in_flight)
        else:
            self._load.pop(name, None)
