"""The only door to Prometheus: one raw range selector in, series with finite samples out.

It never interprets a value and never answers with an empty list when the question could not be asked: every failure is
a `PrometheusError` whose text a person can act on.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import aiohttp

from llmservice_core.samples import Series

TIMEOUT_S = 5.0
"""A plan is due every 5 to 15 s; an answer that takes longer is as good as none."""


class PrometheusError(Exception):
    """Prometheus did not answer the question; the text says why, for condition MetricsAvailable."""


class Prometheus:
    """One Prometheus server. Remembers nothing but the observed scrape gap per service (`gaps`), a hint for windows."""

    def __init__(self, url: str, session: aiohttp.ClientSession, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self.url = _without_user(self._url)
        """As it is told to people: name and password in it are the administrator's, statuses are everybody's."""
        self.session = session
        self.timeout_s = timeout_s
        self.gaps: dict[str, float] = {}

    async def range_vector(self, selector: str) -> list[Series]:
        """`POST /api/v1/query` with a range selector; POST because the list of names is long."""
        data = _decoded(self.url, await self._post({"query": selector}))
        if not isinstance(data, dict) or data.get("resultType") != "matrix":
            raise PrometheusError(f"{self.url} answered with something else than a range vector")
        return parse_matrix(self.url, data.get("result"))

    async def _post(self, form: Mapping[str, str]) -> bytes:
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        try:
            async with self.session.post(f"{self._url}/api/v1/query", data=form, timeout=timeout) as answer:
                body = await answer.read()
                if answer.status >= 400:
                    raise PrometheusError(_refused(self.url, answer.status, body))
                return body
        except TimeoutError:
            raise PrometheusError(f"Prometheus at {self.url} did not answer in {self.timeout_s:g} s") from None
        except aiohttp.InvalidURL:
            raise PrometheusError(f"spec.metrics.prometheusURL {self.url!r} is not a URL") from None
        except (aiohttp.ClientError, OSError) as error:
            raise PrometheusError(
                f"Prometheus at {self.url} cannot be reached: {error or type(error).__name__}"
            ) from error


def parse_matrix(url: str, result: object) -> list[Series]:
    """Result of a range vector as series; a series without one finite sample is left out."""
    try:
        series = [_series(item) for item in result]  # type: ignore[attr-defined]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise PrometheusError(f"{url} answered with a malformed range vector: {error}") from error
    return [s for s in series if s.times]


def _series(item: Mapping[str, Any]) -> Series:
    labels = item["metric"]
    times = [sample[0] for sample in item["values"]]
    values = [float(sample[1]) for sample in item["values"]]
    if not math.isfinite(sum(values)):
        kept = [(t, v) for t, v in zip(times, values, strict=True) if math.isfinite(v)]
        times, values = [t for t, _ in kept], [v for _, v in kept]
    return Series(name=labels.get("__name__", ""), labels=labels, times=times, values=values)


def _decoded(url: str, body: bytes) -> object:
    try:
        answer = json.loads(body)
    except ValueError:
        raise PrometheusError(f"{url} did not answer with JSON: is this a Prometheus server?") from None
    if not isinstance(answer, dict) or answer.get("status") != "success":
        raise PrometheusError(f"{url} answered without success: {_error_text(answer)}")
    return answer.get("data")


def _refused(url: str, status: int, body: bytes) -> str:
    try:
        text = _error_text(json.loads(body))
    except ValueError:
        text = ""
    hint = "is this the URL of a Prometheus server?" if status in (404, 405) else text or "no reason given"
    return f"Prometheus at {url} answered {status}: {hint}"


def _error_text(answer: object) -> str:
    return str(answer.get("error", ""))[:200] if isinstance(answer, dict) else ""


def _without_user(url: str) -> str:
    """By text, for what aiohttp takes for no URL is told, too; an `@` in the path hides more than it must."""
    scheme, slashes, rest = url.partition("//")
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}"
