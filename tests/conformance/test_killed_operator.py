"""The same on a real API server: the operator's process is killed with SIGKILL and started again; API server, status,
memory and decisions are real, the samples those of a Prometheus whose traffic follows a schedule."""

import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from llmservice_core import metric_names as names
from tests.control.fake_prometheus import NEWEST_S, RECORDED, TRAFFIC, FakePrometheus, idle_engines
from tests.control.support import Api, Operator, eventually, measured, ready

pytestmark = [pytest.mark.api, pytest.mark.timeout(600)]

WINDOW_S, INTERVAL_S = 40.0, 5.0
BUSY = 6.0
"""80 requests/s, which want five decode replicas."""
SAMPLE_S = 1.0
OLDEST_S = min(sample[0] for series in RECORDED for sample in series["values"])
Schedule = list[tuple[float, float]]
"""(from this time on, factor of the traffic), in order of time."""


class ScheduledPrometheus(FakePrometheus):
    """Keeps its past: what it says of a moment is the same whenever it is asked. Counters grow with the recorded rates,
    times the factor that was in force; gauges stay."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule: Schedule = [(0.0, 1.0)]
        self.began_s = time.time() - 1200.0

    def answer(self, query: str) -> dict[str, Any]:
        service = query.split('llmservice="')[1].split('"')[0]
        found = re.search(r"\[(\d+)s\]$", query)
        assert found is not None
        now_s = time.time()
        count = int(min(float(found[1]), now_s - self.began_s) / SAMPLE_S)
        times = [int(now_s) - SAMPLE_S * k for k in range(count, -1, -1)]
        rows = [self._row(s, service, times) for s in [*RECORDED, *idle_engines()]]
        return {"status": "success", "data": {"resultType": "matrix", "result": rows}}

    def _row(self, series: dict[str, Any], service: str, times: list[float]) -> dict[str, Any]:
        name = series["metric"]["__name__"]
        first, last = float(series["values"][0][1]), float(series["values"][-1][1])
        per_s = (last - first) / (NEWEST_S - OLDEST_S) if name.endswith("_total") else 0.0
        seconds = self._busy_s if name in TRAFFIC else lambda t: t - self.began_s
        values = [[t, repr(last + per_s * seconds(t))] for t in times]
        return {"metric": {**series["metric"], names.LLMSERVICE: service}, "values": values}

    def _busy_s(self, time_s: float) -> float:
        """Seconds since the beginning, each times the factor in force."""
        ends = [t for t, _ in self.schedule[1:]] + [float("inf")]
        spans = zip(self.schedule, ends, strict=True)
        return sum(f * max(0.0, min(end, time_s) - max(start, self.began_s)) for (start, f), end in spans)


@pytest.fixture
def prometheus() -> Iterator[ScheduledPrometheus]:
    one = ScheduledPrometheus()
    yield one
    one.stop()


def busy_service(api: Api, prometheus: ScheduledPrometheus, name: str) -> str:
    """Made and Ready; the name of its decode Deployment."""
    api.create(measured(prometheus.url, name, scaleDown={"stabilization": f"{WINDOW_S:g}s", "drainDeadline": "0s"}))
    ready(api, name)
    return next(n for n in api.engines() if n.startswith(f"{name}-decode-"))


def plan_record(api: Api) -> dict[str, Any]:
    """The record of the last decision in the status, without its time and age."""
    plan = api.get("llmsvc", "chat")["status"]["plan"]
    return {**{k: plan[k] for k in ("reason", "capacity")}, "steps": {s["name"]: s for s in plan["steps"]}}


def seconds_until_down(api: Api, decode: str, since_s: float) -> float:
    eventually(lambda: api.engines()[decode] < 5, 150)
    return time.time() - since_s


def test_a_killed_operator_goes_on_in_the_middle_of_its_window(
    running: Operator, api: Api, prometheus: ScheduledPrometheus
) -> None:
    """Load falls at a time; the pool may shrink one window after. Killed in that window, the operator shrinks it no
    more than one interval sooner or later than one that lives, and its records say the same."""
    prometheus.schedule = [(0.0, BUSY)]
    decode = busy_service(api, prometheus, "chat")
    eventually(lambda: api.engines()[decode] == 5, 120)
    took = []
    for is_killed in (False, True):
        prometheus.schedule = [(0.0, BUSY)]
        eventually(lambda: api.engines()[decode] == 5, 120)
        time.sleep(WINDOW_S + 2 * INTERVAL_S)
        before = plan_record(api)
        fell_s = time.time()
        prometheus.schedule = [(0.0, BUSY), (fell_s, 0.1)]
        time.sleep(WINDOW_S / 2)
        back_s = fell_s
        if is_killed:
            running.stop(signal.SIGKILL)
            asked = prometheus.asked
            running.start()
            eventually(lambda: prometheus.asked > asked)  # noqa: B023
            back_s = time.time()
        took.append((seconds_until_down(api, decode, fell_s), back_s - fell_s))
        assert before["capacity"] == pytest.approx(plan_record(api)["capacity"], rel=0.02, nan_ok=True)
        assert before["steps"].keys() == plan_record(api)["steps"].keys()
    (alive_s, _), (killed_s, back_s) = took
    assert killed_s >= alive_s - 2 * INTERVAL_S, "one interval, and one for their phases"
    assert killed_s <= max(alive_s, back_s) + 2 * INTERVAL_S, "a machine that is slow to start it is not its fault"


def test_a_killed_operator_changes_nothing_under_a_steady_load(
    running: Operator, api: Api, prometheus: ScheduledPrometheus
) -> None:
    prometheus.schedule = [(0.0, BUSY)]
    decode = busy_service(api, prometheus, "chat")
    eventually(lambda: api.engines()[decode] == 5, 120)
    time.sleep(3 * INTERVAL_S)
    before, history = plan_record(api), api.get("llmsvc", "chat")["status"]["history"]
    running.stop(signal.SIGKILL)
    asked = prometheus.asked
    running.start()
    eventually(lambda: prometheus.asked >= asked + 4)
    after = api.get("llmsvc", "chat")["status"]
    assert after["history"] == history
    assert plan_record(api)["reason"] == before["reason"]
    assert plan_record(api)["capacity"] == pytest.approx(before["capacity"], rel=0.02)
    assert api.engines()[decode] == 5
