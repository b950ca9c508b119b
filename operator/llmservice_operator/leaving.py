"""Leads the pods of one pool out before its size is lowered: looks, lets the core decide, marks the pods.

All that a drain is stands on the pods: the time since which routers send nothing new, and Kubernetes' own cost of
deletion. So an operator that is killed at any point, or two passes in a row, go on from what stands there. The cost is
written one pass before the replicas are lowered, so that the ReplicaSet controller has seen it by then.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from llmservice_api.plan_status import timestamp
from llmservice_api.resource import LLMService
from llmservice_core import contract, draining
from llmservice_core.draining import UNKNOWN, Drains, Occupant, Why, Work
from llmservice_core.model import Mode, Pool
from llmservice_operator import events, observe_work
from llmservice_operator.errors import Gone, OperatorError, Unreachable
from llmservice_operator.kinds import POD, Kind, Manifest, annotations_of, labels_of, name_of
from llmservice_operator.world import World

Post = Callable[[Manifest], Awaitable[bool]]
Key = tuple[Kind, str]
ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One pool of one revision. `size`: as decided now; `written`: what Kubernetes is asked for until now."""

    service: LLMService
    pool: Pool
    revision: str
    size: int
    written: int
    others: frozenset[str] = frozenset()
    """Revisions whose pods have a room of their own."""
    successor: str = ""
    """The revision for which these pods make room; empty: none."""

    @property
    def may_begin(self) -> bool:
        """Where people set the sizes they also choose, by Kubernetes' rules, who goes."""
        return self.service.spec.scaling.mode is Mode.AUTO and self.written > self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """What is decided for one pool and not written yet. `held`: pods to ask for beyond its size."""

    room: Room
    held: int = 0
    drains: Drains = field(default_factory=Drains)
    under_way: Sequence[Occupant] = ()
    """Drains that began in an earlier pass and have no end yet."""
    pods: Mapping[str, Manifest] = field(default_factory=dict)
    now_s: float = 0.0

    @property
    def asked(self) -> int:
        """Replicas to ask Kubernetes for."""
        return self.room.size + self.held


async def look(world: World, room: Room) -> Leaving:
    """Writes nothing. Without a pod that leaves or drains it asks nobody."""
    everyone = world.watches.of(POD, room.service.key)
    alive = [p for p in everyone if _lives_in(p, room)]
    pods = {name_of(p): p for p in alive if labels_of(p).get(contract.LABEL_REVISION) == room.revision}
    marked = {name_of(p): p for p in alive if contract.ANNOTATION_DRAIN in annotations_of(p)}
    if not marked and not (room.may_begin and len(pods) > room.size):
        return Leaving(room=room)
    occupants = await _occupants(world, pods, [p for p in everyone if observe_work.is_router(p)])
    now_s, deadline_s = world.clock(), room.service.drain_deadline_s
    drains = draining.decide(occupants, room.size, may_begin=room.may_begin, now_s=now_s, deadline_s=deadline_s)
    drains = replace(drains, take_back=(*drains.take_back, *_strays(occupants, marked, drains)))
    held = draining.replicas(room.size, room.written, drains.held) - room.size
    under_way = [o for o in occupants if o.is_draining and not o.is_released]
    return Leaving(room=room, held=held, drains=drains, under_way=under_way, pods=pods | marked, now_s=now_s)


def _strays(occupants: Sequence[Occupant], marked: Mapping[str, Manifest], drains: Drains) -> list[Occupant]:
    """Marks that mean nothing: no time stands in them, or their revision is being replaced and goes as a whole."""
    here = {o.name for o in occupants}
    timeless = [o for o in occupants if o.name in marked and not o.is_draining and o not in drains.begin]
    return timeless + [occupant(p, UNKNOWN) for name, p in marked.items() if name not in here]


async def carry_out(world: World, leaving: Leaving, post: Post, refused: dict[Key, OperatorError]) -> None:
    """After the Deployment was written: so whoever is killed before this begins the same drains again."""
    writer = _Writer(world, leaving, post, refused)
    for one in leaving.under_way:
        await writer.tell_begun(one)
    for one in leaving.drains.begin:
        await writer.begin(one)
    for one, why in leaving.drains.release:
        await writer.release(one, why)
    for one in leaving.drains.take_back:
        await writer.take_back(one)


async def _occupants(world: World, pods: Mapping[str, Manifest], routers: list[Manifest]) -> list[Occupant]:
    started = [p for p in pods.values() if observe_work.is_started(p)]
    found = await observe_work.works(world.http, started, routers)
    known = dict(zip(map(name_of, started), found, strict=True))
    return [occupant(pod, known.get(name, UNKNOWN)) for name, pod in pods.items()]


def occupant(pod: Manifest, work: Work) -> Occupant:
    notes = annotations_of(pod)
    conditions = (pod.get("status") or {}).get("conditions") or []
    since_s = _seconds(notes.get(contract.ANNOTATION_DRAIN))
    return Occupant(
        name=name_of(pod),
        serves=any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions),
        is_started=observe_work.is_started(pod),
        since_s=since_s,
        is_released=since_s is not None and notes.get(contract.ANNOTATION_COST) == contract.COST_RELEASED,
        work=work,
    )


def _seconds(text: str | None) -> float | None:
    """What is no time is no drain of ours: it is written anew or taken away."""
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def is_alive(pod: Manifest) -> bool:
    return not pod["metadata"].get("deletionTimestamp") and (pod.get("status") or {}).get("phase") not in ENDED


def _lives_in(pod: Manifest, room: Room) -> bool:
    """Of its revision, or of one that nobody looks after."""
    labels = labels_of(pod)
    wanted = (contract.COMPONENT_ENGINE, room.pool.value)
    is_here = (labels.get(contract.LABEL_COMPONENT), labels.get(contract.LABEL_POOL)) == wanted
    return is_here and is_alive(pod) and labels.get(contract.LABEL_REVISION) not in room.others


@dataclass(frozen=True, slots=True)
class _Writer:
    """Tells of ends first and writes then: if it is killed between, the next one decides and tells the same."""

    world: World
    leaving: Leaving
    post: Post
    refused: dict[Key, OperatorError]

    @property
    def room(self) -> Room:
        return self.leaving.room

    @property
    def now_s(self) -> float:
        return self.leaving.now_s

    @property
    def pods(self) -> Mapping[str, Manifest]:
        return self.leaving.pods

    async def tell_begun(self, one: Occupant) -> None:
        """In every pass, for the one that marked it may have been killed then; the poster leaves out what it told."""
        why = f"makes room for revision {self.room.successor}"
        if not self.room.successor:
            why = f"for {self.room.size} are enough"
        text = f"{self.room.pool} {one.name} drains, {why}: {_left(one)}"
        await self._tell(one, "DrainStarted", text, self._since(one))

    async def begin(self, one: Occupant) -> None:
        since = timestamp(self.now_s)
        await self._write(one, {contract.ANNOTATION_DRAIN: since, contract.ANNOTATION_COST: contract.COST_DRAINING})

    async def release(self, one: Occupant, why: Why) -> None:
        age_s = self.now_s - (one.since_s or self.now_s)
        reason = "DrainDeadlineOver" if why is Why.DEADLINE else "DrainEnded"
        left = "its engine had not started" if why is Why.NOT_STARTED else _left(one)
        await self._tell(one, reason, f"{self.room.pool} {one.name} goes after {age_s:.0f} s: {left}", self._since(one))
        # Not taken for seen: the ReplicaSet controller shall have had the time in which it comes back to us.
        await self._write(one, {contract.ANNOTATION_COST: contract.COST_RELEASED}, is_seen=False)

    async def take_back(self, one: Occupant) -> None:
        text = f"{self.room.pool} {one.name} stays: {self.room.size} are wanted again, or another one goes"
        await self._tell(one, "DrainTakenBack", text, self._since(one))
        await self._write(one, {contract.ANNOTATION_DRAIN: None, contract.ANNOTATION_COST: None})

    def _since(self, one: Occupant) -> str:
        return annotations_of(self.pods[one.name])[contract.ANNOTATION_DRAIN]

    async def _tell(self, one: Occupant, reason: str, text: str, since: str) -> None:
        await self.post(events.drain(self.room.service, self.pods[one.name], reason, text, self.now_s, since))

    async def _write(self, one: Occupant, annotations: Mapping[str, str | None], *, is_seen: bool = True) -> None:
        """A refusal keeps neither the other pods nor the children from what they need."""
        try:
            answer = await self.world.cluster.annotate(self.pods[one.name], annotations)
        except Gone:
            return
        except Unreachable:
            raise
        except OperatorError as error:
            self.refused[POD, one.name] = error
            return
        if is_seen:
            self.world.watches.put(answer)


def _left(one: Occupant) -> str:
    work = one.work
    requests = "an unknown number of" if work.requests is None else f"{work.requests}"
    blocks = f", {work.unpulled_blocks} KV blocks to be pulled" if work.unpulled_blocks else ""
    tokens = f", about {work.tokens:.0f} tokens" if work.tokens else ""
    return f"{requests} requests left{tokens}{blocks}"
