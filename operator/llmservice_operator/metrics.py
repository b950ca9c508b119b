"""The Prometheus objects of the operator, in a registry of its own. Names stand in llmservice_core.metric_names."""

import math
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llmservice_api.resource import LLMService
from llmservice_core import metric_names as names
from llmservice_core.model import Plan, Pool, PoolSeen

REGISTRY = CollectorRegistry()


def _bare(name: str) -> str:
    """The client library adds `_total` itself."""
    return name.removesuffix("_total")


DECISIONS = Counter(
    _bare(names.DECISIONS), "Plans by pool and reason.", [names.LLMSERVICE, names.POOL, "reason"], registry=REGISTRY
)
RECONCILE_SECONDS = Histogram(names.RECONCILE_SECONDS, "Time of one pass over one service.", registry=REGISTRY)
RECONCILE_ERRORS = Counter(
    _bare(names.RECONCILE_ERRORS), "Passes that failed.", [names.LLMSERVICE, "kind"], registry=REGISTRY
)
API_REQUESTS = Counter(
    _bare(names.API_REQUESTS), "Requests to the API server (kopf's own not counted).", ["verb"], registry=REGISTRY
)
DESIRED_REPLICAS = Gauge(
    names.DESIRED_REPLICAS, "Decided size of a pool.", [names.LLMSERVICE, names.POOL], registry=REGISTRY
)
LOAD = Gauge(names.LOAD, "Work over capacity (RAD, Theorem 1).", [names.LLMSERVICE, names.POOL], registry=REGISTRY)


def decided(service: LLMService, plan: Plan, pools: Sequence[PoolSeen]) -> None:
    """Every decision counts, also one that changes nothing."""
    ready = {p.pool: p.ready for p in pools}
    for p in plan.pools:
        DECISIONS.labels(service.key, p.pool.value, str(p.reason)).inc()
        DESIRED_REPLICAS.labels(service.key, p.pool.value).set(p.replicas)
        work = plan.inputs.get(f"{p.pool}.work")
        # NaN is Prometheus' word for unknown; 0 would be a claim.
        known = work is not None and ready.get(p.pool)
        LOAD.labels(service.key, p.pool.value).set(work / ready[p.pool] if work is not None and known else math.nan)


def forget(service: str) -> None:
    """A deleted service leaves no gauge behind."""
    for pool in Pool:
        for gauge in (DESIRED_REPLICAS, LOAD):
            gauge.remove_by_labels({names.LLMSERVICE: service, names.POOL: pool.value})


def exposition() -> bytes:
    return generate_latest(REGISTRY)
