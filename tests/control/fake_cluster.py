"""An API server in memory behind the operator's own door: it stores, counts, spells quantities its way, and refuses.

It is no oracle for the real one: tests with marker `api` ask that.
"""

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from llmservice_api.resource import LLMService, parse
from llmservice_operator.errors import Exists, Gone, OperatorError
from llmservice_operator.keeper import Keeper
from llmservice_operator.kinds import CHILD_KINDS, LLMSERVICE, POD, Kind, Manifest, annotations_of, kind_of, name_of
from llmservice_operator.settings import Settings
from llmservice_operator.watches import Watches
from llmservice_operator.world import World
from tests.control.support import service as body_of

SETTINGS = Settings(engine_image="localhost/engine:1", router_image="localhost/router:1")
SPELT = {"1000m": "1", "1024Mi": "1Gi"}
Key = tuple[str, str]


class FakeCluster:
    """`refuse`: kind/name -> what is raised instead; an answer in `lost` is stored and then raised all the same."""

    def __init__(self) -> None:
        self.objects: dict[str, Manifest] = {}
        self.refuse: dict[str, OperatorError] = {}
        self.lost: dict[str, OperatorError] = {}
        self.applied: list[str] = []
        self.annotated: list[str] = []
        self.events: dict[str, Manifest] = {}
        self.status: Manifest | None = None
        self.logs: dict[str, str] = {}
        self.logs_read: list[tuple[str, dict[str, str]]] = []
        self._version = 0

    async def apply(self, manifest: Manifest) -> Manifest:
        key = f"{manifest['kind']}/{name_of(manifest)}"
        self.applied.append(key)
        if key in self.refuse:
            raise self.refuse[key]
        self.put(key, manifest)
        if key in self.lost:
            raise self.lost.pop(key)
        return copy.deepcopy(self.objects[key])

    def put(self, key: str, manifest: Manifest) -> None:
        self._version += 1
        stored = _spelt(copy.deepcopy(manifest))
        stored["metadata"] |= {"uid": key, "resourceVersion": str(self._version)}
        self.objects[key] = stored

    async def apply_status(self, manifest: Manifest) -> Manifest:
        if "status" in self.refuse:
            raise self.refuse["status"]
        self.status = copy.deepcopy(manifest["status"])
        return manifest

    async def annotate(self, item: Manifest, annotations: Mapping[str, str | None]) -> Manifest:
        key = f"{item['kind']}/{name_of(item)}"
        if key in self.refuse:
            raise self.refuse[key]
        if key not in self.objects:
            raise Gone(f"{key} not found")
        notes = {**annotations_of(self.objects[key]), **annotations}
        stored = copy.deepcopy(self.objects[key])
        stored["metadata"]["annotations"] = {name: value for name, value in notes.items() if value is not None}
        self.annotated.append(name_of(item))
        self.put(key, stored)
        return copy.deepcopy(self.objects[key])

    async def scale(self, deployment: Manifest, replicas: int) -> Manifest:
        key = f"{deployment['kind']}/{name_of(deployment)}"
        stored = copy.deepcopy(self.objects[key])
        stored["spec"]["replicas"] = replicas
        self.put(key, stored)
        return copy.deepcopy(self.objects[key])

    async def log(self, namespace: str, pod: str, options: Mapping[str, str]) -> str:
        self.logs_read.append((pod, dict(options)))
        if pod not in self.logs:
            raise Gone(f"pods {pod} not found")
        return self.logs[pod]

    async def create(self, manifest: Manifest) -> Manifest:
        if manifest["kind"] in self.refuse:
            raise self.refuse[manifest["kind"]]
        if name_of(manifest) in self.events:
            raise Exists(f"events {name_of(manifest)} already exists")
        self.events[name_of(manifest)] = manifest
        return manifest

    async def delete(self, manifest: Manifest) -> None:
        self.objects.pop(f"{manifest['kind']}/{name_of(manifest)}", None)

    async def find(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        if kind is LLMSERVICE:
            return {"metadata": {"uid": "1"}}
        return copy.deepcopy(self.objects.get(f"{kind.kind}/{name}"))

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[Manifest]:
        await asyncio.sleep(3600)
        yield {}

    def told(self, reason: str | None = None) -> list[str]:
        return [e["message"] for e in self.events.values() if reason in (None, e["reason"])]


def _spelt(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _spelt(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_spelt(item) for item in node]
    return SPELT.get(node, node) if isinstance(node, str) else node


def resource(generation: int = 1, status: Manifest | None = None, **spec: Any) -> LLMService:
    body = body_of(**spec)
    body["metadata"] |= {"namespace": "ns", "uid": "1", "generation": generation}
    return parse(body | ({"status": status} if status else {}))


def keeper(cluster: FakeCluster, service: LLMService) -> Keeper:
    """As after a start: it knows what lives and what the status says, nothing else."""
    watches = Watches(cluster, (*CHILD_KINDS, POD), (), lambda _: None)  # type: ignore[arg-type]
    seen(cluster, watches)
    http: aiohttp.ClientSession = None  # type: ignore[assignment]
    return Keeper(World(settings=SETTINGS, cluster=cluster, watches=watches, http=http), service)  # type: ignore[arg-type]


def seen(cluster: FakeCluster, watches: Watches) -> None:
    """What the watches would show by now."""
    for item in cluster.objects.values():
        assert kind_of(item) in (*CHILD_KINDS, POD)
        watches.put(copy.deepcopy(item))
