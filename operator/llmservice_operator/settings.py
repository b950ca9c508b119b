"""Settings of the operator, read once at start from the environment. Each chart value maps to one field.

Nothing here changes while the operator runs, and nothing about one service stands here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmservice_core.contract import PORT_OPERATOR
from llmservice_operator.pod_security import PodTemplate

PREFIX = "LLMSERVICE_"
Peer = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Who may reach the pods of a service, each as a NetworkPolicyPeer: podSelector, namespaceSelector, ipBlock."""

    clients: tuple[Peer, ...] = ()
    """Of the OpenAI API. None named: everybody."""
    prometheus: tuple[Peer, ...] = ()
    """Of the metrics ports. None named: everybody; vLLM's own metrics are on the port of its API."""
    operator: tuple[Peer, ...] = ()
    """Of the metrics ports of engines and routers, which it asks while a pod drains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    watch_namespaces: tuple[str, ...] = ()
    """LLMSERVICE_WATCH_NAMESPACES, separated by commas. Empty: all namespaces (needs a ClusterRole)."""
    engine_image: str = ""
    """LLMSERVICE_ENGINE_IMAGE: image of engines whose spec.engine.image is unset."""
    router_image: str = ""
    """LLMSERVICE_ROUTER_IMAGE: image of routers whose spec.router.image is unset; the operator's own image."""
    prometheus_url: str = ""
    """LLMSERVICE_PROMETHEUS_URL: where metrics are when spec.metrics.prometheusURL is unset."""
    port: int = PORT_OPERATOR
    """LLMSERVICE_HTTP_PORT: /healthz and /metrics. 0 takes a free port (tests)."""
    log_level: str = "info"
    """LLMSERVICE_LOG_LEVEL: debug, info, warning, error."""
    pod_template: PodTemplate = PodTemplate.RESTRICTED
    """LLMSERVICE_POD_TEMPLATE: what templates in LLMServices may ask for. Full: all that the API server lets in."""
    network: Peers | None = None
    """LLMSERVICE_NETWORK_POLICIES: the fields of Peers as JSON. Unset: no NetworkPolicies are made."""


def read(environment: Mapping[str, str]) -> Settings:
    def text(name: str, default: str = "") -> str:
        return environment.get(PREFIX + name, "").strip() or default

    namespaces = (part.strip() for part in text("WATCH_NAMESPACES").split(","))
    return Settings(
        watch_namespaces=tuple(sorted({name for name in namespaces if name})),
        engine_image=text("ENGINE_IMAGE"),
        router_image=text("ROUTER_IMAGE"),
        prometheus_url=text("PROMETHEUS_URL"),
        port=int(text("HTTP_PORT", str(PORT_OPERATOR))),
        log_level=text("LOG_LEVEL", "info").lower(),
        pod_template=PodTemplate(text("POD_TEMPLATE", PodTemplate.RESTRICTED)),
        network=_peers(text("NETWORK_POLICIES")),
    )


def _peers(said: str) -> Peers | None:
    if not said:
        return None
    return Peers(**{name: tuple(peers or ()) for name, peers in json.loads(said).items()})
