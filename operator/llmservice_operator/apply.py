"""All writes to children: server-side apply where something differs, delete where something should not be.

It decides no sizes. An unchanged service costs no request at all.
"""

import contextlib
import logging
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmservice_api.resource import LLMService
from llmservice_core.contract import GROUP
from llmservice_operator import compare
from llmservice_operator.child_parts import digest
from llmservice_operator.cluster import Cluster
from llmservice_operator.errors import Gone, Misconfigured, NotReady, OperatorError, ServiceGone, Unreachable
from llmservice_operator.kinds import CHILD_KINDS, LLMSERVICE, Kind, Manifest, annotations_of, kind_of, name_of
from llmservice_operator.watches import Watches

ANNOTATION_APPLIED = f"{GROUP}/applied"
"""Digest of what we last wanted: tells our own changes from those of others, and fields that we no longer write."""

log = logging.getLogger(__name__)
Key = tuple[Kind, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """Somebody edited or deleted a child, and it is as it was."""

    kind: str
    name: str
    what: str


@dataclass(slots=True, kw_only=True)
class Writes:
    """What the writes of one pass came to, filled one by one, so that a pass that breaks off can still be told of."""

    restored: list[Restored] = field(default_factory=list)
    refused: dict[Key, OperatorError] = field(default_factory=dict)
    """Not tried again in the same pass."""


@dataclass(slots=True)
class Applier:
    """Writes for one service. Remembers what the API server made of our fields, and what existed."""

    cluster: Cluster
    watches: Watches
    settled: dict[Key, tuple[str, Any]] = field(default_factory=dict)
    _missed: set[Key] = field(default_factory=set)
    """Deleted by somebody else and not yet known to be back: the answer to our write may get lost."""
    _parent_lives: bool = False
    """Looked up at most once in a pass."""

    async def converge(
        self, service: LLMService, wanted: Sequence[Manifest], keep: Iterable[str], done: Writes
    ) -> None:
        """`keep`: names of Deployments that are no longer wanted but may not go yet.

        A child that is refused (a webhook, a stranger of its name) must not keep the others from what they need.
        """
        self._parent_lives = False
        living = {(kind_of(c), name_of(c)): c for c in self.watches.all_of(service.key, CHILD_KINDS)}
        for item in wanted:
            if _key(item) not in done.refused:
                await _attempt(_key(item), self._ensure(service, stamped(item), living, done), done)
        names = {_key(item) for item in wanted}
        for key, child in living.items():
            if key not in names and key[1] not in keep and _is_owned(child, service):
                await _attempt(key, self._delete(child), done)

    async def lower(self, deployment: Manifest, replicas: int, done: Writes) -> None:
        """The size of an earlier revision's Deployment; it never grows again."""
        if replicas < int(deployment["spec"].get("replicas", 1)):
            await _attempt(_key(deployment), self._scale(deployment, replicas), done)

    async def _scale(self, deployment: Manifest, replicas: int) -> None:
        with contextlib.suppress(Gone):
            self.watches.put(await self.cluster.scale(deployment, replicas))

    async def _ensure(self, service: LLMService, item: Manifest, living: dict[Key, Manifest], done: Writes) -> None:
        key = _key(item)
        live = living.get(key) or await self._unseen(service, item)
        if live is not None:
            _refuse_strangers(live, service)
            if live["metadata"].get("deletionTimestamp"):
                return
            if not self._needs(live, item):
                self._is_back(key, done)
                return
        elif key in self.settled:
            self._missed.add(key)
        answer = await self.cluster.apply(item)
        self.watches.put(answer)
        if live is not None and live["metadata"]["uid"] != answer["metadata"]["uid"]:
            self._missed.add(key)  # deleted after our last look
        elif live is not None and self._is_edited(live, item, answer):
            done.restored.append(Restored(kind=key[0].kind, name=key[1], what="edited"))
        self.settled[key] = (_digest_of(item), compare.part_of(answer, item))
        self._is_back(key, done)

    def _is_back(self, key: Key, done: Writes) -> None:
        if key in self._missed:
            self._missed.discard(key)
            done.restored.append(Restored(kind=key[0].kind, name=key[1], what="deleted"))

    def _needs(self, live: Manifest, item: Manifest) -> bool:
        if _digest_of(live) != _digest_of(item):
            return True
        settled = (_digest_of(item), compare.part_of(live, item))
        return compare.differs(live, item) and self.settled.get(_key(item)) != settled

    def _is_edited(self, live: Manifest, item: Manifest, answer: Manifest) -> bool:
        """By somebody else: a new wish of ours is none.

        After a restart we do not know yet how the API server spells our values; then it answers with what was there.
        """
        return compare.part_of(answer, item) != compare.part_of(live, item) and _digest_of(live) == _digest_of(item)

    async def _unseen(self, service: LLMService, item: Manifest) -> Manifest | None:
        """What no watch shows: nothing, or a stranger of this name, or ours whose label somebody took away.

        Before anything is made the service is looked up: one that was deleted meanwhile must not get children.
        """
        if not self._parent_lives:
            await self._confirm(service)
        return await self.cluster.find(kind_of(item), service.metadata.namespace, name_of(item))

    async def _confirm(self, service: LLMService) -> None:
        parent = await self.cluster.find(LLMSERVICE, service.metadata.namespace, service.metadata.name)
        if parent is None or parent["metadata"]["uid"] != service.metadata.uid:
            raise ServiceGone(service.key)
        self._parent_lives = True

    async def _delete(self, child: Manifest) -> None:
        if child["metadata"].get("deletionTimestamp"):
            return
        log.info("%s %s is no longer wanted: deleted", child["kind"], name_of(child))
        with contextlib.suppress(Gone):
            await self.cluster.delete(child)
        self.watches.drop(child)
        self.settled.pop(_key(child), None)
        self._missed.discard(_key(child))


async def _attempt(key: Key, work: Awaitable[None], done: Writes) -> None:
    try:
        await work
    except Unreachable:
        raise
    except OperatorError as error:
        done.refused[key] = error


def _key(item: Manifest) -> Key:
    return kind_of(item), name_of(item)


def stamped(item: Manifest) -> Manifest:
    """With the digest of the whole in an annotation."""
    annotations = {**annotations_of(item), ANNOTATION_APPLIED: digest(item)}
    return {**item, "metadata": {**item["metadata"], "annotations": annotations}}


def _digest_of(item: Manifest) -> str:
    return annotations_of(item).get(ANNOTATION_APPLIED, "")


def _is_owned(child: Manifest, service: LLMService) -> bool:
    owners = child["metadata"].get("ownerReferences") or []
    return any(owner.get("uid") == service.metadata.uid for owner in owners)


def _refuse_strangers(live: Manifest, service: LLMService) -> None:
    if _is_owned(live, service):
        return
    owners = [o for o in live["metadata"].get("ownerReferences") or [] if o.get("name") == service.metadata.name]
    if owners:
        raise NotReady(f"{live['kind']} {name_of(live)} of an earlier {service.key} is still being removed")
    raise Misconfigured(
        f"{live['kind']} {name_of(live)} exists and belongs to somebody else: delete it or rename this LLMService"
    )
