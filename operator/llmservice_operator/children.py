"""Renders everything that one LLMService owns: resource + sizes -> manifests. Pure: it reads and writes nothing.

Engine Deployments of earlier revisions are not rendered; whether they may go is decided in `rollout.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmservice_api.resource import LLMService
from llmservice_core import contract
from llmservice_core.model import Pool
from llmservice_operator import child_engine, child_network, child_router, kinds
from llmservice_operator.child_parts import identity, manifest, pool_name, router_name
from llmservice_operator.kinds import Manifest
from llmservice_operator.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """What an engine pod of each pool looks like now, and the name of that look."""

    templates: Mapping[Pool, Manifest]
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """How many engines of the present revision there may be while an earlier one holds GPUs, and what limits them."""

    replicas: Mapping[Pool, int] = field(default_factory=dict)
    why: str | None = None


def look(service: LLMService, settings: Settings) -> Rendering:
    templates = child_engine.templates(service, settings)
    return Rendering(templates=templates, revision=child_engine.revision(templates))


def render(
    service: LLMService,
    settings: Settings,
    rendering: Rendering,
    sizes: Mapping[Pool, int],
    *,
    held: Mapping[Pool, int] | None = None,
    rollout: Partial | None = None,
    pod_monitors: bool = False,
) -> list[Manifest]:
    """All children in the order in which they are made. `held`: pods beyond a pool's size that still drain."""
    beyond, now = held or {}, rollout or Partial()
    return [
        *child_router.account(service),
        *child_router.services(service),
        *(_headless(service, pool) for pool in rendering.templates),
        *_disruption_budgets(service),
        *(child_network.policies(service, settings.network) if settings.network else ()),
        *(_pod_monitors(service) if pod_monitors else ()),
        child_router.deployment(service, settings),
        *(
            child_engine.deployment(
                service,
                pool,
                template,
                rendering.revision,
                sizes[pool],
                beyond.get(pool, 0),
                for_now=now.replicas.get(pool),
                why=now.why,
            )
            for pool, template in rendering.templates.items()
        ),
    ]


def _headless(service: LLMService, pool: Pool) -> Manifest:
    labels = identity(service, contract.COMPONENT_ENGINE) | {contract.LABEL_POOL: pool.value}
    ports = {"http": contract.PORT_ENGINE_HTTP, "metrics": contract.PORT_ENGINE_METRICS}
    spec = {
        "clusterIP": "None",
        "selector": labels,
        "ports": [{"name": n, "port": p, "targetPort": n, "protocol": "TCP"} for n, p in ports.items()],
    }
    return manifest(kinds.SERVICE, service, pool_name(service, pool), labels, spec=spec)


def _disruption_budgets(service: LLMService) -> list[Manifest]:
    """One pod of a pool at a time; pods that are not healthy may always go, or a node could not be drained."""
    engine, router = (identity(service, c) for c in (contract.COMPONENT_ENGINE, contract.COMPONENT_ROUTER))
    groups = {pool_name(service, p): engine | {contract.LABEL_POOL: p.value} for p in service.spec.pools.used()}
    groups[router_name(service)] = router
    return [
        manifest(
            kinds.DISRUPTION_BUDGET,
            service,
            name,
            labels,
            spec={
                "maxUnavailable": 1,
                "selector": {"matchLabels": labels},
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        )
        for name, labels in groups.items()
    ]


def _pod_monitors(service: LLMService) -> list[Manifest]:
    """Every 5 s: a decision wants several scrapes in its interval. Engines are asked on vLLM's port, too."""
    ports = {contract.COMPONENT_ENGINE: ("http", "metrics"), contract.COMPONENT_ROUTER: ("metrics",)}
    return [
        manifest(
            kinds.POD_MONITOR,
            service,
            f"{service.metadata.name}-{component}",
            identity(service, component),
            spec={
                "selector": {"matchLabels": identity(service, component)},
                "podMetricsEndpoints": [{"port": port, "path": "/metrics", "interval": "5s"} for port in names],
            },
        )
        for component, names in ports.items()
    ]
