"""The loop closed on a real API server: metrics -> decision -> pools; and what happens when metrics go away."""

import re
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.control.fake_prometheus import FakePrometheus
from tests.control.support import Api, Operator, engine, eventually, measured, ready

pytestmark = [pytest.mark.api, pytest.mark.timeout(600)]


@pytest.fixture
def prometheus() -> Iterator[FakePrometheus]:
    one = FakePrometheus()
    yield one
    one.stop()


def status(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.get("llmsvc", "chat").get("status", {})
    return found


def grown(api: Api, prometheus: FakePrometheus) -> str:
    """Five times the traffic: the decode pool has five replicas."""
    api.create(measured(prometheus.url))
    ready(api)
    prometheus.factor = 5.0
    decode = engine(api, "decode")
    eventually(lambda: api.engines()[decode] == 5)
    return decode


def test_pools_follow_the_load_and_say_why(running: Operator, api: Api, prometheus: FakePrometheus) -> None:
    decode = grown(api, prometheus)
    eventually(lambda: api.row("5/5"))
    (event,) = [m for m in api.events("DemandUp") if re.match(r"decode [12] -> 5:", m)]
    line = f"{api.namespace}/chat: DemandUp: {event}"
    assert running.log.read_text().count(line) == 1, "one log line with the words of the one Event"
    told = status(api)
    assert told["plan"]["inputs"]["arrivals_rps"] == pytest.approx(80, rel=0.01)
    assert told["plan"]["capacity"]["decode.tau_decode_s"] > 0
    assert {"demand", "capacity", "size", "limits"} <= {s["name"] for s in told["plan"]["steps"]}
    assert told["history"][-1]["to"]["decode"] == 5
    assert told["pools"]["decode"]["desired"] == 5
    assert api.condition("chat", "MetricsAvailable")["status"] == "True"
    assert api.condition("chat", "SLOMet")["status"] == "True"
    prometheus.factor = 0.1
    eventually(lambda: api.engines()[decode] == 1)
    eventually(lambda: [m for m in api.events("DemandDown") if "decode 5 -> 1" in m])


@pytest.mark.parametrize(("fault", "words"), [("status", "500"), ("age", "s old")])
def test_metrics_that_go_away_scale_nothing_down_and_come_back(
    running: Operator, api: Api, prometheus: FakePrometheus, fault: str, words: str
) -> None:
    decode = grown(api, prometheus)
    prometheus.factor = 0.1
    if fault == "status":
        prometheus.status = 500
    else:
        prometheus.age_s = 120.0
    lost = eventually(lambda: api.told("chat", "MetricsAvailable", "False"))
    assert words in lost["message"]
    assert lost["reason"] == ("MetricsMissing" if fault == "status" else "MetricsStale")
    time.sleep(11)
    assert api.engines()[decode] == 5
    prometheus.status, prometheus.age_s, prometheus.factor = 200, 1.0, 5.0
    eventually(lambda: api.told("chat", "MetricsAvailable", "True"))
    assert api.engines()[decode] == 5
    prometheus.factor = 0.1
    eventually(lambda: api.engines()[decode] == 1)


def test_a_recommendation_is_shown_and_not_applied(running: Operator, api: Api, prometheus: FakePrometheus) -> None:
    api.create(measured(prometheus.url, mode="Recommend"))
    ready(api)
    prometheus.factor = 5.0
    shown = eventually(lambda: p if (p := status(api)["pools"]["decode"])["planned"] == 5 else None)
    assert shown["message"].startswith("1 -> 5: 80.00 req/s")
    time.sleep(6)
    assert sorted(api.engines().values()) == [1, 1]
    assert status(api)["pools"]["decode"]["desired"] == 1


def test_a_restart_keeps_sizes_and_memory(running: Operator, api: Api, prometheus: FakePrometheus) -> None:
    decode = grown(api, prometheus)
    before = status(api)["memory"]
    running.stop()
    prometheus.status = 500
    running.start()
    eventually(lambda: api.told("chat", "MetricsAvailable", "False"))
    assert api.engines()[decode] == 5
    started = re.search(r'"started":([0-9.]+)', before)
    assert started is not None
    assert started[0] in status(api)["memory"], "history goes on where it was"


def test_the_budget_is_never_exceeded(running: Operator, api: Api, prometheus: FakePrometheus) -> None:
    api.create(measured(prometheus.url, gpuBudget=4))
    ready(api)
    prometheus.factor = 20.0
    decode = engine(api, "decode")
    eventually(lambda: api.engines()[decode] == 3)
    assert eventually(lambda: api.told("chat", "BudgetLimited", "True"))["reason"] == "BudgetLimited"
    eventually(lambda: api.row("4/4"))


def test_metrics_and_health_of_the_operator(operator: Operator, api: Api, prometheus: FakePrometheus) -> None:
    operator.stop()
    operator.env["LLMSERVICE_HTTP_PORT"] = port = "19402"
    try:
        operator.start()
        api.create(measured(prometheus.url))
        ready(api)

        def read(path: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                text: str = answer.read().decode()
                return text

        assert read("/healthz") == "ok\n"
        label = f'llmservice="{api.namespace}/chat",pool="decode"'
        text = eventually(lambda: t if f"llmservice_operator_load_ratio{{{label}}}" in (t := read("/metrics")) else "")
        assert f"llmservice_operator_desired_replicas{{{label}}}" in text
        assert f"llmservice_operator_decisions_total{{{label}," in text
        assert 'llmservice_operator_api_requests_total{verb="PATCH"}' in text
        api("delete", "llmsvc", "chat")
        eventually(lambda: f"desired_replicas{{{label}}}" not in read("/metrics"))
    finally:
        operator.stop()
        del operator.env["LLMSERVICE_HTTP_PORT"]
