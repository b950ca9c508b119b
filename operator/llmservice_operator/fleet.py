"""All services that this operator looks after: one keeper and one task each, so that none waits for another."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from llmservice_api.resource import LLMService, parse
from llmservice_operator import definition, metrics
from llmservice_operator.cluster import Cluster
from llmservice_operator.keeper import Keeper
from llmservice_operator.kinds import CHILD_KINDS, POD
from llmservice_operator.settings import Settings
from llmservice_operator.watches import Watches
from llmservice_operator.world import World

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Kept:
    keeper: Keeper
    task: "asyncio.Task[None]"


class Fleet:
    """`start()` before the first service, `stop()` after the last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: dict[str, Kept] = {}
        self._cluster = Cluster()
        self._world: World
        self._watching: asyncio.Task[None]
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._cluster.connect()
        kinds = (*CHILD_KINDS, POD)
        watches = Watches(self._cluster, kinds, self._settings.watch_namespaces, self.wake)
        http = aiohttp.ClientSession()
        self._world = World(settings=self._settings, cluster=self._cluster, watches=watches, http=http)
        self._watching = asyncio.create_task(watches.run(), name="watches")

    async def wait_for_definition(self) -> None:
        """Before kopf looks for it; from then on its loss ends `is_alive`."""
        await definition.until_served(self._cluster)
        self._serving = asyncio.create_task(definition.until_lost(self._cluster), name="definition")

    async def stop(self) -> None:
        tasks = [self._watching, *(kept.task for kept in self._kept.values())]
        tasks += [self._serving] if self._serving else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._world.http.close()
        await self._cluster.close()

    @property
    def is_alive(self) -> bool:
        """The watches never end of themselves; a keeper ends only when its service is gone."""
        return not self._watching.done() and not (self._serving and self._serving.done())

    def wake(self, service: str) -> None:
        if service in self._kept:
            self._kept[service].keeper.wake()

    def saw(self, body: Mapping[str, Any]) -> None:
        """A service that is there: new, changed, or as it was."""
        try:
            service = parse(body)
        except ValueError as error:
            # The API server let it in by an older CRD; the newest one refuses it with this sentence.
            meta = body["metadata"]
            log.warning("%s/%s cannot be read, it is left as it is: %s", meta.get("namespace"), meta.get("name"), error)
            return
        if body["metadata"].get("deletionTimestamp"):
            self.forget(service.key)
            return
        kept = self._kept.get(service.key)
        if kept is not None and kept.keeper.service.metadata.uid == service.metadata.uid and not kept.task.done():
            kept.keeper.saw(service)
        else:
            self._adopt(service)

    def forget(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            kept.task.cancel()
            metrics.forget(key)
            self._world.start_ups.pop(key, None)

    def _adopt(self, service: LLMService) -> None:
        self.forget(service.key)
        keeper = Keeper(self._world, service)
        task = asyncio.create_task(keeper.run(), name=service.key)
        self._kept[service.key] = Kept(keeper, task)
        task.add_done_callback(lambda ended: self._ended(service.key, ended))

    def _ended(self, key: str, task: "asyncio.Task[None]") -> None:
        """The keeper found its service gone before kopf told us."""
        if key in self._kept and self._kept[key].task is task:
            self.forget(key)
