"""The doors that a pass over a service goes through, opened once and handed in: cluster, watches, Prometheus, clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from llmservice_api.resource import LLMService
from llmservice_operator.cluster import Cluster
from llmservice_operator.observe_pods import StartUps
from llmservice_operator.observe_prometheus import Prometheus
from llmservice_operator.settings import Settings
from llmservice_operator.watches import Watches


@dataclass(slots=True, kw_only=True)
class World:
    settings: Settings
    cluster: Cluster
    watches: Watches
    http: aiohttp.ClientSession
    clock: Callable[[], float] = time.time
    start_ups: dict[str, StartUps] = field(default_factory=dict)
    """By service. Kept between passes, since a pod tells its first Ready only until the next one."""
    _prometheus: dict[str, Prometheus] = field(default_factory=dict)

    def prometheus(self, service: LLMService) -> Prometheus | None:
        """The one that the service names, else the operator's own; services share what is learned about a server."""
        url = service.spec.metrics.prometheus_url or self.settings.prometheus_url
        if not url:
            return None
        return self._prometheus.setdefault(url, Prometheus(url, self.http))
