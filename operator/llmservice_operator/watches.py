"""Keeps a copy of our children and pods up to date by watching them, so that no pass lists anything.

Only objects with our label are asked for. A list after every break replaces what was known, so a deletion during an
outage of the API server is seen, too. It decides nothing and writes nothing.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from llmservice_core.contract import LABEL_NAME
from llmservice_operator.cluster import Cluster
from llmservice_operator.errors import Expired, Gone, Misconfigured, OperatorError
from llmservice_operator.kinds import Kind, Manifest, kind_of, labels_of, name_of, namespace_of

RETRY_S = 1.0
RETRY_AT_MOST_S = 30.0
ABSENT_S = 120.0
"""How often we look whether an optional kind (PodMonitor) has come."""

log = logging.getLogger(__name__)
Wake = Callable[[str], None]


@dataclass(slots=True)
class Store:
    """Objects of one kind by service (`<namespace>/<name>`) and by name."""

    kind: Kind
    exists: bool = True
    by_service: dict[str, dict[str, Manifest]] = field(default_factory=dict)

    def put(self, item: Manifest) -> None:
        item["metadata"].pop("managedFields", None)
        known = self.by_service.get(service_of(item), {}).get(name_of(item))
        if known is None or _version(item) >= _version(known):
            self.by_service.setdefault(service_of(item), {})[name_of(item)] = item

    def drop(self, item: Manifest) -> None:
        for items in self.by_service.values():
            known = items.get(name_of(item))
            if known is not None and known["metadata"]["uid"] == item["metadata"]["uid"]:
                del items[name_of(item)]
        self.by_service = {service: items for service, items in self.by_service.items() if items}

    def replace(self, namespace: str | None, items: Iterable[Manifest]) -> None:
        """What a new list says about a namespace (None: all of them) is all there is."""
        for service in [s for s in self.by_service if namespace is None or s.startswith(f"{namespace}/")]:
            del self.by_service[service]
        for item in items:
            self.put(item)


class Watches:
    """`wake(service)` is called for every change that others or we ourselves made to something of the service."""

    def __init__(self, cluster: Cluster, kinds: Sequence[Kind], namespaces: Sequence[str], wake: Wake) -> None:
        self._cluster = cluster
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._wake = wake
        self._stores = {kind: Store(kind) for kind in kinds}
        self._listed: set[tuple[Kind, str | None]] = set()
        self.synced = asyncio.Event()
        """Set when every kind was listed once: before that, absent means nothing."""

    def of(self, kind: Kind, service: str) -> list[Manifest]:
        return list(self._stores[kind].by_service.get(service, {}).values())

    def all_of(self, service: str, kinds: Iterable[Kind]) -> Iterator[Manifest]:
        for kind in kinds:
            yield from self.of(kind, service)

    def exists(self, kind: Kind) -> bool:
        return self._stores[kind].exists

    def put(self, item: Manifest) -> None:
        """What we just wrote, ahead of the event that will tell us."""
        self._stores[kind_of(item)].put(item)

    def drop(self, item: Manifest) -> None:
        self._stores[kind_of(item)].drop(item)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind in self._stores:
                for namespace in self._namespaces:
                    group.create_task(self._follow(kind, namespace))

    async def _follow(self, kind: Kind, namespace: str | None) -> None:
        pause_s = 0.0
        while True:
            began_s = time.monotonic()
            try:
                await self._list_and_watch(kind, namespace)
            except OperatorError as error:
                if time.monotonic() - began_s > RETRY_AT_MOST_S:
                    pause_s = 0.0
                await asyncio.sleep(self._after(error, kind, namespace, pause_s))
                pause_s = _longer(pause_s)

    def _after(self, error: OperatorError, kind: Kind, namespace: str | None, pause_s: float) -> float:
        """How long to wait before the next try; `pause_s` is 0 where all went well until now."""
        if kind.optional and isinstance(error, Gone | Misconfigured):
            self._stores[kind].exists = False
            self._arrived(kind, namespace, [])
            return ABSENT_S
        if isinstance(error, Expired):
            # A list mends it, so once it costs no wait; but a server that says nothing else is not asked in a circle.
            return pause_s
        log.warning("cannot watch %s: %s", kind.plural, error)
        return _longer(pause_s)

    async def _list_and_watch(self, kind: Kind, namespace: str | None) -> None:
        items, version = await self._cluster.list(kind, namespace, labelSelector=LABEL_NAME)
        self._stores[kind].exists = True
        self._arrived(kind, namespace, items)
        while True:
            began_s = time.monotonic()
            async for event in self._cluster.watch(kind, namespace, version, labelSelector=LABEL_NAME):
                version = event["object"]["metadata"]["resourceVersion"]
                self._happened(kind, event["type"], event["object"])
            if time.monotonic() - began_s < RETRY_S:
                await asyncio.sleep(RETRY_S)  # a proxy that ends every watch at once must not make us spin

    def _arrived(self, kind: Kind, namespace: str | None, items: list[Manifest]) -> None:
        store = self._stores[kind]
        touched = set(store.by_service)
        store.replace(namespace, items)
        self._listed.add((kind, namespace))
        if len(self._listed) == len(self._stores) * len(self._namespaces):
            self.synced.set()
        for service in touched | set(store.by_service):
            self._wake(service)

    def _happened(self, kind: Kind, what: str, item: Manifest) -> None:
        if what == "BOOKMARK":
            return
        if what == "DELETED":
            self._stores[kind].drop(item)
        else:
            self._stores[kind].put(item)
        self._wake(service_of(item))


def service_of(item: Manifest) -> str:
    return f"{namespace_of(item)}/{labels_of(item).get(LABEL_NAME, '')}"


def _longer(pause_s: float) -> float:
    return min(max(2 * pause_s, RETRY_S), RETRY_AT_MOST_S)


def _version(item: Manifest) -> int:
    return int(item["metadata"].get("resourceVersion", 0))
