"""A pool of prefill engines behind the router's own rules, in virtual time: `Line`, `choose`, `PrefixMemory`, `expect`.

An engine computes its prompts one after the other, the shortest first, in chunks at the measured step times of a GPU,
and keeps the blocks of the last prompts. What is left out: short prompts that share a step, transfer, decode; TTFT ends
with the prompt. What the router believes of the caches and what they hold are two things, as in life.
"""

import heapq
import itertools
import random
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from llmservice_core.affinity import BLOCKS_PER_ENGINE, PrefixMemory, of_session
from llmservice_core.latency import StepModel
from llmservice_core.line import Amount, Line, Waiter
from llmservice_core.model import Pool
from llmservice_core.picking import UNBOUNDED, Policy, Room, Saved
from llmservice_core.prompt_pace import PromptPace, expect
from llmservice_core.routing import Endpoint, Route, choose

CHUNK_TOKENS = 2048
LOOK_PAST = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ask:
    arrival_s: float
    prompt_tokens: int
    tenant: str = ""
    service_class: str = "only"
    ttft_s: float = 60.0
    blocks: tuple[bytes, ...] = ()
    block_tokens: int = 1
    session: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    ask: Ask
    ttft_s: float
    cached_tokens: int
    predicted_s: float | None
    """On arrival; None: nothing was known."""


@dataclass(slots=True)
class Engine:
    name: str
    cache_tokens: int
    held: dict[Ask, float] = field(default_factory=dict)
    """With the tokens that the router believes to be computed for it."""
    running: Ask | None = None
    cache: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def endpoint(self) -> Endpoint:
        tokens = sum(self.held.values())
        return Endpoint(
            name=self.name,
            url="",
            pool=Pool.MIXED,
            work_tokens=tokens,
            in_flight=len(self.held),
            prompts=len(self.held),
            prompt_tokens=tokens,
        )

    def cached_tokens(self, ask: Ask) -> int:
        """The last token is always computed, whatever the cache holds."""
        matched = next((i for i, b in enumerate(ask.blocks) if b not in self.cache), len(ask.blocks))
        return min(matched * ask.block_tokens, ask.prompt_tokens - 1)

    def keep(self, ask: Ask) -> None:
        for block in reversed(ask.blocks):
            self.cache[block] = None
            self.cache.move_to_end(block)
        while len(self.cache) * ask.block_tokens > self.cache_tokens:
            self.cache.popitem(last=False)


def prefill_s(model: StepModel, tokens: int, cached: int = 0) -> float:
    """In chunks, the last one as long as what is left."""
    starts = range(cached, tokens, CHUNK_TOKENS)
    return sum(model.step_s([(min(CHUNK_TOKENS, tokens - at), at)]) for at in starts)


class PrefillPool:
    """`room`: what an engine may hold before prompts wait in the line; `UNBOUNDED`: the router keeps none. `sheds`:
    classes of which late requests are refused, on arrival or when they become hopeless; they end up in `refused`."""

    def __init__(
        self,
        engines: int,
        model: StepModel,
        policy: Policy = Policy.SHORTEST_QUEUE,
        room: Room = UNBOUNDED,
        seed: int = 0,
        cache_tokens: int = 0,
        remembered_blocks: int = BLOCKS_PER_ENGINE,
        sheds: Collection[str] = (),
    ) -> None:
        self._engines = {name: Engine(name, cache_tokens) for name in (f"p{i}" for i in range(engines))}
        self._model, self._policy, self._room = model, policy, room
        self._draws = random.Random(seed)
        self.line, self._memory = Line(), PrefixMemory(remembered_blocks)
        self._asks: dict[Waiter, Ask] = {}
        self._paces = {name: PromptPace() for name in self._engines}
        self._sheds, self.refused = sheds, list[Ask]()
        self._predicted: dict[Ask, float] = {}
        self._served: list[Served] = []

    def run(self, asks: Iterable[Ask]) -> list[Served]:
        """Until all are served."""
        number = itertools.count()
        events: list[tuple[float, int, Ask | Engine | Waiter]] = [(a.arrival_s, next(number), a) for a in asks]
        heapq.heapify(events)
        while events:
            now_s, _, event = heapq.heappop(events)
            if isinstance(event, Ask):
                waiter, hopeless_s = self._arrive(event, now_s)
                if event.service_class in self._sheds:
                    heapq.heappush(events, (hopeless_s, next(number), waiter))
            elif isinstance(event, Engine):
                self._finish(event, now_s)
            elif event in self.line:
                self._refuse(event)
            self._pump(now_s)
            for engine in self._engines.values():
                if engine.running is None and engine.held:
                    heapq.heappush(events, (now_s + self._start(engine), next(number), engine))
        return self._served

    def _arrive(self, ask: Ask, now_s: float) -> tuple[Waiter, float]:
        """With the time from which on it cannot be served within its target."""
        waiter = Waiter(
            service_class=ask.service_class,
            tenant=ask.tenant,
            arrival_s=ask.arrival_s,
            ttft_s=ask.ttft_s,
            prompt_tokens=ask.prompt_tokens,
        )
        self._asks[waiter] = ask
        self.line.add(waiter)
        own, ahead = Amount(1, ask.prompt_tokens), self.line.ahead(waiter, now_s)
        seen = expect(self._paces.values(), own=own, ahead=ahead, after_s=0.0, age_s=0.0, now_s=now_s)
        if seen is None:
            return waiter, now_s + ask.ttft_s
        self._predicted[ask] = seen.ttft_s
        is_late = ask.service_class in self._sheds and seen.late_by_s(ask.ttft_s) > 0
        return waiter, now_s if is_late else now_s + ask.ttft_s - seen.service_s

    def _refuse(self, waiter: Waiter) -> None:
        self.line.remove(waiter)
        self.refused.append(self._asks.pop(waiter))

    def _pump(self, now_s: float) -> None:
        passed: set[Waiter] = set()
        while len(passed) <= LOOK_PAST and (waiter := self.line.first(now_s, passed)) is not None:
            ask = self._asks[waiter]
            endpoints = [e.endpoint() for e in self._engines.values()]
            saved = self._saved(ask)
            draw = self._draws.random()
            route = choose(endpoints, policy=self._policy, draw=draw, saved=saved, room=self._room)
            if isinstance(route, Route):
                self.line.take(waiter)
                del self._asks[waiter]
                name = route.prompt_engine.name
                known = self._memory.share(name, ask.blocks)
                self._memory.sent(name, ask.blocks)
                self._engines[name].held[ask] = tokens = ask.prompt_tokens * (1 - known)
                self._paces[name].began(tokens, now_s)
            elif saved:
                passed.add(waiter)
            else:
                return

    def _saved(self, ask: Ask) -> Saved:
        if self._policy is Policy.PREFIX_AFFINITY:
            return {n: ask.prompt_tokens * s for n in self._engines if (s := self._memory.share(n, ask.blocks))}
        engine = of_session(ask.session, self._engines) if self._policy is Policy.SESSION and ask.session else None
        return {engine: ask.prompt_tokens} if engine else {}

    def _start(self, engine: Engine) -> float:
        ask = engine.running = min(engine.held, key=lambda a: (a.prompt_tokens, a.arrival_s))
        return prefill_s(self._model, ask.prompt_tokens, engine.cached_tokens(ask))

    def _finish(self, engine: Engine, now_s: float) -> None:
        ask, engine.running = engine.running, None
        assert ask is not None
        self._paces[engine.name].ended(engine.held.pop(ask), now_s)
        cached = engine.cached_tokens(ask)
        engine.keep(ask)
        predicted_s = self._predicted.get(ask)
        self._served.append(
            Served(ask=ask, ttft_s=now_s - ask.arrival_s, cached_tokens=cached, predicted_s=predicted_s)
        )


def percentile(values: Sequence[float], p: float) -> float:
    """The smallest value that at least p % do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, -(-int(p * len(ranked)) // 100) - 1)]
