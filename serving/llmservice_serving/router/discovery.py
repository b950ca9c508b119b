"""Where engines and classes come from: pods and the LLMService watched through the API server, or files and URLs.

Translates foreign objects into the core's records; decides nothing about requests.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import yaml

from llmservice_core.contract import (
    ANNOTATION_DRAIN,
    ANNOTATION_MODEL,
    COMPONENT_ENGINE,
    COMPONENT_ROUTER,
    GROUP,
    LABEL_COMPONENT,
    LABEL_NAME,
    LABEL_POOL,
    LABEL_REVISION,
    PLURAL,
    VERSION,
)
from llmservice_core.model import Pool
from llmservice_core.routing import Endpoint
from llmservice_serving.router.errors import EngineFailure
from llmservice_serving.router.kube import Kube, Object
from llmservice_serving.router.service_config import BadManifest, from_manifest
from llmservice_serving.router.settings import Settings
from llmservice_serving.router.state import Shared

LOG = logging.getLogger("llmservice.router.discovery")
PROBE_EVERY_S = 0.5
PROBE_TIMEOUT_S = 2.0


async def follow_pods(shared: Shared, kube: Kube, namespace: str, name: str) -> None:
    """Engines by their pods' labels, and how many routers share a tenant's limit; in force as soon as it is told."""

    def on_state(pods: list[Object]) -> None:
        shared.door.routers = sum(map(is_ready_router, pods))
        found = (endpoint_of(pod, shared.settings.engine_port) for pod in pods)
        shared.fleet.update(e for e in found if e is not None)
        shared.are_engines_synced = True

    selector = f"{LABEL_NAME}={name},{LABEL_COMPONENT} in ({COMPONENT_ENGINE},{COMPONENT_ROUTER})"
    await kube.follow(f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": selector}, on_state)


async def follow_service(shared: Shared, kube: Kube, namespace: str, name: str) -> None:
    """Classes and names; a deleted LLMService leaves the last one in force until the pods are gone too."""

    def on_state(services: list[Object]) -> None:
        for manifest in services:
            try:
                shared.use(from_manifest(manifest))
            except BadManifest as error:
                LOG.error("%s; the last good one stays in force", error)

    path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
    await kube.follow(path, {"fieldSelector": f"metadata.name={name}"}, on_state)


def is_ready_router(pod: Object) -> bool:
    meta = pod["metadata"]
    is_router = (meta.get("labels") or {}).get(LABEL_COMPONENT) == COMPONENT_ROUTER
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return is_router and not meta.get("deletionTimestamp") and _is_ready(conditions)


def endpoint_of(pod: Object, port: int) -> Endpoint | None:
    """An engine pod as the core's record; None for a pod that is in no known pool."""
    meta, status = pod["metadata"], pod.get("status") or {}
    labels = meta.get("labels") or {}
    pool = labels.get(LABEL_POOL)
    if pool not in set(Pool):
        return None
    address = status.get("podIP")
    is_deleted, notes = bool(meta.get("deletionTimestamp")), meta.get("annotations") or {}
    return Endpoint(
        name=meta["name"],
        url=f"http://{_host(address)}:{port}" if address else "",
        pool=Pool(pool),
        revision=labels.get(LABEL_REVISION, ""),
        ready=bool(address) and _is_ready(status.get("conditions") or ()),
        draining=is_deleted or ANNOTATION_DRAIN in notes,
        deleted=is_deleted,
        leaving_since_s=leaving_since_s(meta),
        model=notes.get(ANNOTATION_MODEL, ""),
    )


def leaving_since_s(meta: Object) -> float | None:
    """The earlier of its drain and its deletion. Kubernetes writes when the time of a deleted pod is over."""
    begun = (meta.get("annotations") or {}).get(ANNOTATION_DRAIN), meta.get("deletionTimestamp")
    drained_s, ends_s = map(_unix_s, begun)
    deleted_s = None if ends_s is None else ends_s - (meta.get("deletionGracePeriodSeconds") or 0)
    return min((s for s in (drained_s, deleted_s) if s is not None), default=None)


def _unix_s(text: str | None) -> float | None:
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _is_ready(conditions: Iterable[Object]) -> bool:
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _host(address: str) -> str:
    return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address


def read_file(path: str) -> Object:
    """The first LLMService of a manifest file."""
    documents = [d for d in yaml.safe_load_all(Path(path).read_text()) if d]
    found = next((d for d in documents if d.get("kind", "LLMService") == "LLMService"), None)
    if found is None:
        raise BadManifest(f"{path} holds no LLMService")
    return dict(found)


async def probe_static(shared: Shared) -> None:
    """Engines given by URL: ready while their /health answers 200."""
    engines = static_endpoints(shared.settings)
    while True:
        alive = await asyncio.gather(*(_is_healthy(shared, e) for e in engines))
        shared.fleet.update(_with_ready(e, ok) for e, ok in zip(engines, alive, strict=True))
        shared.are_engines_synced = True
        await asyncio.sleep(PROBE_EVERY_S)


def static_endpoints(settings: Settings) -> list[Endpoint]:
    given = ((Pool.PREFILL, settings.prefill), (Pool.DECODE, settings.decode), (Pool.MIXED, settings.mixed))
    return [Endpoint(name=url, url=url.rstrip("/"), pool=pool) for pool, urls in given for url in urls]


def _with_ready(endpoint: Endpoint, ready: bool) -> Endpoint:
    return Endpoint(name=endpoint.name, url=endpoint.url, pool=endpoint.pool, ready=ready)


async def _is_healthy(shared: Shared, endpoint: Endpoint) -> bool:
    try:
        status, _ = await shared.engines.get(endpoint, "/health", PROBE_TIMEOUT_S)
    except EngineFailure:
        return False
    return status == 200
