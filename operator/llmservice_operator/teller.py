"""Tells people what happened to one service: status, Events, one log line per change. It decides and changes nothing.

What it told last is kept here, with the planner's memory that travels in the status: a restart reads both back. A
change of sizes is a difference to what was told last: so none is lost that was half written, or written by an operator
that was killed before it could tell.
"""

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmservice_api.status import HISTORY_LENGTH, MEMORY_LENGTH, Change, Status
from llmservice_core.model import Mode, Pool
from llmservice_core.planner_memory import Memory
from llmservice_operator import conditions, events, status
from llmservice_operator.apply import Restored
from llmservice_operator.errors import Exists, Gone, NotReady, OperatorError, ServiceGone, Unreachable
from llmservice_operator.facts import Facts
from llmservice_operator.kinds import Manifest, name_of
from llmservice_operator.world import World

TOLD = ("Degraded", "MetricsAvailable")
"""Conditions whose flips are Events."""
UNSENT = 20
"""Events kept for an API server that does not take them; of more the oldest are dropped."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Teller:
    world: World
    shown: Status | None
    memory: Memory | None = field(init=False)
    history: list[Change] = field(init=False)
    told: Mapping[Pool, int] = field(init=False)
    written_s: float = float("-inf")
    _once: set[str] = field(default_factory=set)
    _unsent: deque[Manifest] = field(default_factory=lambda: deque(maxlen=UNSENT))

    def __post_init__(self) -> None:
        self.history = list(self.shown.history) if self.shown else []
        self.told = self.sizes_shown()
        self.memory = Memory.from_json(self.shown.memory or "") if self.shown else None

    def sizes_shown(self) -> dict[Pool, int]:
        pools = self.shown.pools if self.shown else None
        known = pools.model_dump(exclude_none=True) if pools else {}
        return {Pool(name): int(pool["desired"]) for name, pool in known.items() if "desired" in pool}

    async def tell(self, facts: Facts, restored: Sequence[Restored]) -> None:
        await self._send_again()
        for one in restored:
            log.info("%s: %s %s was %s by somebody else: put back", facts.service.key, one.kind, one.name, one.what)
            await self.post(events.restored(facts.service, one, facts.now_s))
        await self._tell_change(facts)
        await self._tell_pause(facts)
        await self._show(facts)

    async def _tell_change(self, facts: Facts) -> None:
        """Sizes that people set are theirs; a pool's first size is no change."""
        sizes, told, plan = facts.sizes, self.told, facts.plan
        changed = any(told.get(pool, size) != size for pool, size in sizes.items())
        is_ours = facts.service.spec.scaling.mode is Mode.AUTO
        if changed and is_ours:
            if plan is None:
                return
            change, last = status.change(told, sizes, plan), self.history[-1] if self.history else None
            if await self.post(events.scaled(facts.service, change, plan, last)):
                log.info("%s: %s: %s", facts.service.key, change.reason, change.message)
            self.history = [*self.history, change][-HISTORY_LENGTH:]
        self.told = dict(sizes)

    async def _tell_pause(self, facts: Facts) -> None:
        if facts.is_paused and facts.rolling_out and facts.revision is not None:
            text = conditions.progressing(facts)[2]
            await self.post_once(events.paused(facts.service, facts.revision, text, facts.now_s))

    async def _show(self, facts: Facts) -> None:
        new = status.build(self.shown or Status(), facts, self.history, self._memory_text())
        if not status.is_worth_writing(self.shown, new, time.monotonic() - self.written_s):
            return
        try:
            await self.world.cluster.apply_status(_status_of(facts, new))
        except Gone:
            raise ServiceGone(facts.service.key) from None
        except OperatorError as error:
            log.warning("%s: the status could not be written: %s", facts.service.key, error)
            return
        await self._post_flips(facts, self.shown, new)
        self.shown, self.written_s = new, time.monotonic()

    def _memory_text(self) -> str | None:
        """What does not fit is forgotten: a restart then learns anew, which is slow and safe."""
        text = self.memory.to_json() if self.memory else ""
        return text if 0 < len(text) <= MEMORY_LENGTH else None

    async def _post_flips(self, facts: Facts, old: Status | None, new: Status) -> None:
        for kind in TOLD:
            before, after = old.condition(kind) if old else None, new.condition(kind)
            if before is not None and after is not None and {before.status, after.status} == {"True", "False"}:
                await self.post(events.flipped(facts.service, after, facts.now_s))

    async def post_once(self, event: Manifest) -> bool:
        """For what is told in every pass while it holds: a request only for the first time in this process."""
        name = name_of(event)
        if name in self._once:
            return False
        self._once.add(name)
        return await self.post(event)

    async def post(self, event: Manifest) -> bool:
        """Whether it is new. One that could not be sent is no reason to stop: it is sent again with the next pass."""
        try:
            await self.world.cluster.create(event)
        except Exists:
            return False
        except (NotReady, Unreachable) as error:
            log.warning("an Event waits (%s): %s", error, event["message"])
            self._unsent.append(event)
        except OperatorError as error:
            log.warning("an Event was lost (%s): %s", error, event["message"])
        return True

    async def _send_again(self) -> None:
        """Its name is the same, so one whose answer alone was lost is not told twice."""
        waiting = list(self._unsent)
        self._unsent.clear()
        for event in waiting:
            await self.post(event)


def _status_of(facts: Facts, new: Status) -> Manifest:
    service = facts.service
    return {
        "apiVersion": service.api_version,
        "kind": service.kind,
        "metadata": {
            "name": service.metadata.name,
            "namespace": service.metadata.namespace,
            # An LLMService of the same name that came later must not get this status.
            "uid": service.metadata.uid,
        },
        "status": new.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
