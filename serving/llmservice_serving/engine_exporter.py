"""The engine's own /metrics, served from inside vLLM's EngineCore process.

That process' numbers cannot reach the /metrics of vLLM's API server, so it listens on a second port
(LLMSERVICE_METRICS_PORT; unset: no exporter). Values are read when scraped. Never slows a step: readers take the same
lock for one copy only, and a port that is taken is a log line, not a dead engine.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from socketserver import ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from llmservice_core import contract
from llmservice_core import metric_names as names
from llmservice_core.step_sums import PAIRS
from llmservice_serving import engine_leave
from llmservice_serving.engine_misses import SLACK_BOUNDS
from llmservice_serving.engine_numbers import EngineNumbers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)
Row = tuple[tuple[str, ...], float]


class EngineCollector(Collector):
    """EngineNumbers as Prometheus families; every series carries the service and the pool."""

    def __init__(self, numbers: EngineNumbers, service: str, pool: str) -> None:
        self._numbers = numbers
        self._own = (service, pool)

    def collect(self) -> Iterator[Metric]:
        with self._numbers.lock:
            families = list(self._counters())
        yield from families
        yield from self._gauges()

    def _counters(self) -> Iterator[Metric]:
        n = self._numbers
        yield from self._slo()
        yield from self._slack()
        yield from self._steps()
        for name, text, value in (
            (names.HIDDEN_TOTAL, "Decodes left out of a step, once per step", n.hidden_decodes),
            (names.BAD_XARGS, "Requests with a class or target that made no sense", n.bad_xargs),
            (names.PACED_STEPS, "Steps made to last as long as on a measured GPU", n.paced_steps),
            (names.PACE_OVERRUNS, "Paced steps whose own work took longer than that", n.pace_overruns),
            (names.PACE_LATE_SECONDS, "Time that paced steps took beyond their pace", n.pace_late_s),
        ):
            yield self._family(CounterMetricFamily, name, text, (), [((), value)])

    def _slo(self) -> Iterator[Metric]:
        keys = [(c, names.SLO_TBT, contract.target_label(t)) for c, t in self._numbers.gaps]
        read = [(g.good, g.events) for g in self._numbers.gaps.values()]  # in this order, see Gaps
        for name, text, at in (
            (names.SLO_EVENTS, "Token gaps", 1),
            (names.SLO_GOOD, "Token gaps within target", 0),
        ):
            values = [(key, pair[at]) for key, pair in zip(keys, read, strict=True)]
            yield self._family(CounterMetricFamily, name, text, names.SLO_LABELS, values)

    def _slack(self) -> Iterator[Metric]:
        n, labels = self._numbers, (names.CLASS, "target")
        rows = [((c, contract.target_label(t)), g) for (c, t), g in n.gaps.items()]
        slack = HistogramMetricFamily(
            names.SLACK, "Time left when a token left, over its target", labels=(names.LLMSERVICE, names.POOL, *labels)
        )
        bounds = [*(f"{b:g}" for b in SLACK_BOUNDS), "+Inf"]
        for key, gaps in rows:
            counts = accumulate(gaps.slack)
            slack.add_metric((*self._own, *key), list(zip(bounds, map(float, counts), strict=True)), None)
        yield slack
        causes = [((*key, why), float(n)) for key, gaps in rows for why, n in gaps.misses.items()]
        text = "Token gaps that were too long, by what made them so"
        yield self._family(CounterMetricFamily, names.MISSES, text, (*labels, names.CAUSE), causes)
        left = [
            (key, g.mean_slack_s / n.mean_step_s) for key, g in rows if g.mean_slack_s is not None and n.mean_step_s
        ]
        text = "Time left when a token left, moving mean, in mean steps"
        yield self._family(GaugeMetricFamily, names.EFFECTIVE_THETA, text, labels, left)

    def _steps(self) -> Iterator[Metric]:
        kinds, counter = self._numbers.kinds, CounterMetricFamily
        yield self._family(
            counter, names.STEPS, "Engine steps with tokens", (names.KIND,), [((k,), s.steps) for k, s in kinds.items()]
        )
        yield self._family(
            counter, names.STEP_SECONDS, "Their duration", (names.KIND,), [((k,), s.seconds) for k, s in kinds.items()]
        )
        yield self._family(
            counter,
            names.STEP_XX,
            "Sums of x_i x_j over steps",
            (names.KIND, "i", "j"),
            [
                ((k, names.FEATURES[i], names.FEATURES[j]), v)
                for k, s in kinds.items()
                for (i, j), v in zip(PAIRS, s.xx, strict=True)
            ],
        )
        yield self._family(
            counter,
            names.STEP_XY,
            "Sums of x_i y over steps, y in seconds",
            (names.KIND, "i"),
            [((k, f), v) for k, s in kinds.items() for f, v in zip(names.FEATURES, s.xy, strict=True)],
        )
        bins = sorted(self._numbers.bins.items())
        for name, at, text in (
            (names.STEP_BIN_COUNT, 0, "Steps by size"),
            (names.STEP_BIN_SECONDS, 1, "Duration of steps by size"),
        ):
            yield self._family(counter, name, text, ("bin",), [((str(b),), cell[at]) for b, cell in bins])

    def _gauges(self) -> Iterator[Metric]:
        live, limits = self._numbers.live(), self._numbers.limits
        yield self._family(
            GaugeMetricFamily,
            names.RUNNING,
            "Requests that hold a place",
            ("phase",),
            [(("prefill",), live.prefills), (("decode",), live.decodes)],
        )
        for name, text, value in (
            (names.WAITING, "Requests not admitted yet", live.waiting),
            (names.HIDDEN, "Decodes left out of the last step", live.hidden),
            (
                names.UNPULLED_BLOCKS,
                "KV blocks of finished prompts that a decode engine has not pulled",
                live.unpulled_blocks,
            ),
            (names.KV_USAGE, "Share of KV blocks in use", live.kv_usage),
            (names.KV_TOKENS, "Tokens that the KV cache can hold", limits.kv_tokens),
            (names.MAX_BATCHED_TOKENS, "Token budget of a step", limits.max_batched_tokens),
            (names.MAX_SEQS, "Most requests at once", limits.max_seqs),
            (names.TILE_TOKENS, "Tile width assumed in the step features", limits.tile_tokens),
        ):
            yield self._family(GaugeMetricFamily, name, text, (), [((), value)])

        if live.theta is not None:
            text = "Offset in force, in mean batches"
            yield self._family(GaugeMetricFamily, names.THETA, text, (), [((), live.theta)])

    def _family(
        self,
        kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        text: str,
        labels: Iterable[str],
        rows: Iterable[Row],
    ) -> Metric:
        family = kind(name, text, labels=(names.LLMSERVICE, names.POOL, *labels))
        for values, value in rows:
            family.add_metric((*self._own, *values), float(value))
        return family


def start(numbers: EngineNumbers, explain: Callable[[], Any], offset: int = 0) -> int | None:
    """Serve `numbers` on /metrics, what `explain` says on /debug/schedule, and /leave; the port, or None without
    LLMSERVICE_METRICS_PORT or when the port is taken.

    `offset` tells the engines of a data-parallel group apart.
    """
    wanted = os.environ.get(contract.ENV_METRICS_PORT)
    if not wanted:
        return None
    registry = CollectorRegistry()
    registry.register(
        EngineCollector(numbers, os.environ.get(contract.ENV_SERVICE, ""), os.environ.get(contract.ENV_POOL, ""))
    )
    port, host = int(wanted) + offset, os.environ.get(contract.ENV_METRICS_HOST, "0.0.0.0")
    try:
        server = make_server(host, port, _pages(registry, explain, numbers), _Server, _Quiet)
    except OSError as e:
        log.error("no engine metrics: port %d cannot be used (%s)", port, e)
        return None
    Thread(target=server.serve_forever, name="llmservice-exporter", daemon=True).start()
    return port


def _pages(registry: CollectorRegistry, explain: Callable[[], Any], numbers: EngineNumbers) -> WSGIApplication:
    metrics: WSGIApplication = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") == contract.PATH_LEAVE:
            return engine_leave.answer(numbers, environ, start_response)
        if environ.get("PATH_INFO") != contract.PATH_SCHEDULE:
            return metrics(environ, start_response)
        body = json.dumps(explain()).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return app


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no news."""
