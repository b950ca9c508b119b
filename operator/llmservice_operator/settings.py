"""Settings of the operator, read once at start from the environment. Each chart value maps to one field.

Nothing here changes while the operator runs, and nothing about one service stands here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llmservice_core.contract import PORT_OPERATOR

PREFIX = "LLMSERVICE_"


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
    )
