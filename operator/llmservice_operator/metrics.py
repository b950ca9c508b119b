"""The Prometheus objects of the operator, in a registry of its own. Names stand in llmservice_core.metric_names."""

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llmservice_api.resource import LLMService
from llmservice_core import metric_names as names
from llmservice_core.model import Observation, Plan, Pool

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

PLAN_ARRIVALS = Gauge(
    names.PLAN_ARRIVALS, "Requests that arrive per second.", [names.LLMSERVICE, names.CLASS], registry=REGISTRY
)
PLAN_WORK = Gauge(names.PLAN_WORK, "Work that arrives, in replicas.", [names.LLMSERVICE, names.POOL], registry=REGISTRY)
PLAN_TOKEN_SECONDS = Gauge(
    names.PLAN_TOKEN_SECONDS,
    "Time of a replica that one token costs, as learned.",
    [names.LLMSERVICE, names.POOL, "phase"],
    registry=REGISTRY,
)
PLAN_METRICS_AGE = Gauge(
    names.PLAN_METRICS_AGE, "Age of the newest router sample.", [names.LLMSERVICE], registry=REGISTRY
)
INPUTS = (PLAN_ARRIVALS, PLAN_WORK, PLAN_TOKEN_SECONDS, PLAN_METRICS_AGE)


def decided(service: LLMService, seen: Observation, plan: Plan) -> None:
    """Every decision counts, also one that changes nothing."""
    ready = {p.pool: p.ready for p in seen.pools}
    for p in plan.pools:
        DECISIONS.labels(service.key, p.pool.value, str(p.reason)).inc()
        DESIRED_REPLICAS.labels(service.key, p.pool.value).set(p.replicas)
        work = plan.inputs.get(f"{p.pool}.work")
        # NaN is Prometheus' word for unknown; 0 would be a claim.
        known = work is not None and ready.get(p.pool)
        LOAD.labels(service.key, p.pool.value).set(work / ready[p.pool] if work is not None and known else math.nan)
    _inputs(service.key, seen, plan)


def _inputs(service: str, seen: Observation, plan: Plan) -> None:
    """All anew: what is unknown now, or of a class that is gone, must not stay with its last value."""
    for gauge in INPUTS:
        gauge.remove_by_labels({names.LLMSERVICE: service})
    for traffic in seen.classes:
        _show(PLAN_ARRIVALS, traffic.arrivals_rps, service, traffic.name)
    for pool in (p.pool.value for p in plan.pools):
        _show(PLAN_WORK, plan.inputs.get(f"{pool}.work"), service, pool)
        for phase in (Pool.PREFILL.value, Pool.DECODE.value):
            _show(PLAN_TOKEN_SECONDS, plan.capacity.get(f"{pool}.tau_{phase}_s"), service, pool, phase)
    _show(PLAN_METRICS_AGE, plan.inputs.get("metrics_age_s"), service)


def _show(gauge: Gauge, value: float | None, *labels: str) -> None:
    if value is not None:
        gauge.labels(*labels).set(value)


def forget(service: str) -> None:
    """A deleted service leaves no gauge behind."""
    for gauge in (DESIRED_REPLICAS, LOAD, *INPUTS):
        gauge.remove_by_labels({names.LLMSERVICE: service})


def exposition() -> bytes:
    return generate_latest(REGISTRY)
