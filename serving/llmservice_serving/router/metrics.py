"""The router's Prometheus objects. Names come from the core; every class's series exist from the start at 0.

A registry of its own: nothing of the process or of another library appears, and tests may make many.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from llmservice_core import metric_names as names
from llmservice_core.contract import target_label
from llmservice_core.model import Pool, ServiceClass
from llmservice_serving.router.gap_times import Times, TimesMetric

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

L, C = names.LLMSERVICE, names.CLASS
TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120)
GAP_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5)
FIRST_CODES = (
    ("200", "ok"),
    ("502", "failed"),
    ("503", "shed"),
    ("429", "shed"),
    ("400", "refused"),
    ("499", "client_gone"),
)
ERROR_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
STATES = ("ready", "draining", "not_ready", "excluded")


class Metrics:
    """All series of one router, labelled with its service."""

    def __init__(self, service: str):
        self.service, self.registry = service, CollectorRegistry()
        r: dict[str, Any] = {"registry": self.registry}
        self.arrivals = Counter(names.ARRIVALS, "Requests that came, refused and shed ones included", (L, C), **r)
        self.requests = Counter(names.REQUESTS, "Requests by how they ended", (L, C, "code", "outcome"), **r)
        self.prompt_tokens = Counter(names.PROMPT_TOKENS, "Prompt tokens of finished prefills", (L, C), **r)
        self.prompts = Counter(names.PROMPTS, "Finished prefills", (L, C), **r)
        self.cached_tokens = Counter(names.CACHED_TOKENS, "Part of the prompt tokens found in a cache", (L, C), **r)
        self.output_tokens = Counter(names.OUTPUT_TOKENS, "Tokens of finished answers", (L, C), **r)
        self.answers = Counter(names.ANSWERS, "Finished answers", (L, C), **r)
        self.slo_events = Counter(names.SLO_EVENTS, "Judged events", (L, *names.SLO_LABELS), **r)
        self.slo_good = Counter(names.SLO_GOOD, "Judged events within target", (L, *names.SLO_LABELS), **r)
        self.in_flight = Gauge(names.IN_FLIGHT, "Requests in the router by phase", (L, C, "phase"), **r)
        self.waiting_tokens = Gauge(
            names.WAITING_PROMPT_TOKENS, "Predicted prompt tokens queued or in prefill", (L,), **r
        )
        self.ttft = Histogram(
            names.TTFT_SECONDS, "Time to first token of streams, for plots", (L, C), buckets=TTFT_BUCKETS_S, **r
        )
        self.chunk_gap = TimesMetric(
            names.CHUNK_GAP_SECONDS, "Time between chunks (not tokens)", (L, C), GAP_BUCKETS_S, self.registry
        )
        self.ttft_part = Summary(names.TTFT_PART_SECONDS, "Where the time to first token went", (L, C, "part"), **r)
        self.queue_tokens = Gauge(names.QUEUE_TOKENS, "Predicted prompt tokens that wait in this router", (L, C), **r)
        self.prediction_error = Histogram(
            names.TTFT_PREDICTION_ERROR,
            "How far the first token was from the time predicted on arrival",
            (L, C, names.DIRECTION),
            buckets=ERROR_BUCKETS_S,
            **r,
        )
        self.retries = Counter(names.RETRIES, "Attempts after the first", (L, "phase", "reason"), **r)
        self.resumes = Counter(names.RESUMES, "Streams whose engine died, by what became of them", (L, "outcome"), **r)
        self.shed = Counter(names.SHED, "Requests refused for want of an engine", (L, C, "reason"), **r)
        self.endpoints = Gauge(names.ENDPOINTS, "Engines as the router sees them", (L, "pool", "state"), **r)
        self.denied = Counter(names.DENIED, "Requests turned away at the door", (L, names.TENANT, "reason"), **r)
        self.tenant_tokens = Counter(names.TENANT_TOKENS, "Tokens of a tenant's requests", (L, names.TENANT), **r)
        self.access = Gauge(names.ACCESS, "Whom the router lets in: 1 for what holds", (L, "state"), **r)
        self._tenants: frozenset[str] = frozenset()
        self.waiting_tokens.labels(service)
        self.set_endpoints(())
        self.set_access(names.ACCESS_STATES[0], ())
        for reason in names.DENY_REASONS:
            self.denied.labels(service, "", reason)
        for outcome in names.FIRST_RESUMES:
            self.resumes.labels(service, outcome)

    def start_classes(self, classes: Iterable[ServiceClass]) -> None:
        """Absent is not zero: make every series of these classes exist."""
        for c in classes:
            per_class = (self.arrivals, self.prompt_tokens, self.prompts, self.cached_tokens, self.output_tokens)
            for metric in (*per_class, self.answers, self.ttft, self.chunk_gap):
                metric.labels(self.service, c.name)
            for code, outcome in FIRST_CODES:
                self.requests.labels(self.service, c.name, code, outcome)
            for phase in names.PHASES:
                self.in_flight.labels(self.service, c.name, phase)
            for part in names.TTFT_PARTS:
                self.ttft_part.labels(self.service, c.name, part)
            self.queue_tokens.labels(self.service, c.name)
            for direction in names.DIRECTIONS:
                self.prediction_error.labels(self.service, c.name, direction)
            for reason in names.FIRST_SHED_REASONS:
                self.shed.labels(self.service, c.name, reason)
            self._ttft_pair(c)

    def judge_ttft(self, c: ServiceClass, is_good: bool) -> None:
        events, good = self._ttft_pair(c)
        events.inc()
        if is_good:
            good.inc()

    def observe_ttft(self, class_name: str, ttft_s: float, parts: Mapping[str, float]) -> None:
        """The first token of a stream, and where its time went."""
        self.ttft.labels(self.service, class_name).observe(ttft_s)
        for part, seconds in parts.items():
            self.ttft_part.labels(self.service, class_name, part).observe(seconds)

    def observe_prediction(self, class_name: str, later_s: float) -> None:
        direction = names.DIRECTIONS[later_s > 0]
        self.prediction_error.labels(self.service, class_name, direction).observe(abs(later_s))

    def resume(self, outcome: str) -> None:
        self.resumes.labels(self.service, outcome).inc()

    def retry(self, phase: str, reason: str) -> None:
        self.retries.labels(self.service, phase, reason).inc()

    def set_queue(self, class_name: str, tokens: float) -> None:
        self.queue_tokens.labels(self.service, class_name).set(tokens)

    def gaps(self, class_name: str) -> Times:
        return self.chunk_gap.labels(self.service, class_name)

    def set_endpoints(self, seen: Iterable[tuple[Pool, str]]) -> None:
        """All (pool, state) pairs, those without an engine at 0."""
        counts = {(pool, state): 0 for pool in Pool for state in STATES}
        for key in seen:
            counts[key] += 1
        for (pool, state), count in counts.items():
            self.endpoints.labels(self.service, pool.value, state).set(count)

    def deny(self, reason: str, tenant: str = "") -> None:
        """Turned away at the door; a tenant is named only where its key was right, so a client cannot make series."""
        self.denied.labels(self.service, tenant, reason).inc()

    def set_access(self, state: str, tenants: Iterable[str]) -> None:
        """The state of the door, and series for the tenants of now: those of tenants that left go with them."""
        for one in names.ACCESS_STATES:
            self.access.labels(self.service, one).set(one == state)
        now = frozenset(tenants)
        for tenant in self._tenants ^ now:
            self._tell_tenant(tenant) if tenant in now else self._forget_tenant(tenant)
        self._tenants = now

    def _tell_tenant(self, tenant: str) -> None:
        self.tenant_tokens.labels(self.service, tenant)
        for reason in names.TENANT_DENY_REASONS:
            self.denied.labels(self.service, tenant, reason)

    def _forget_tenant(self, tenant: str) -> None:
        self.tenant_tokens.remove(self.service, tenant)
        for reason in names.TENANT_DENY_REASONS:
            self.denied.remove(self.service, tenant, reason)

    @contextmanager
    def phase(self, class_name: str, phase: str, waiting_tokens: float = 0.0) -> Iterator[None]:
        """A request is in this phase, and its predicted prompt tokens wait, for the length of the block."""
        gauge, waiting = (
            self.in_flight.labels(self.service, class_name, phase),
            self.waiting_tokens.labels(self.service),
        )
        gauge.inc()
        waiting.inc(waiting_tokens)
        try:
            yield
        finally:
            gauge.dec()
            waiting.dec(waiting_tokens)

    def exposition(self) -> bytes:
        return prometheus_client.generate_latest(self.registry)

    def _ttft_pair(self, c: ServiceClass) -> tuple[Counter, Counter]:
        labels = (self.service, c.name, names.SLO_TTFT, target_label(c.ttft.target_s))
        return self.slo_events.labels(*labels), self.slo_good.labels(*labels)
