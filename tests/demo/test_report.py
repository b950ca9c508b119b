"""The page of a run on the cluster: what was watched is what it shows, and it asks for nothing from elsewhere."""

from typing import Any

import pytest

from e2e.demo import page, services
from e2e.demo.paced import Watch
from e2e.demo.story import Moment
from e2e.load import Sample
from e2e.report import gaps_of, gpu_hours

ZERO_S = 1_700_000_000.0


def moment(time_s: float, prefill: int) -> Moment:
    sizes = {"prefill": prefill, "decode": 1}
    return Moment(time_s=ZERO_S + time_s, phase="x", desired=sizes, ready=sizes, held=sizes, waiting_tokens=7.0)


def sample(time_s: float, ttft_s: float | None, *gaps_s: float, name: str = "interactive") -> Sample:
    return Sample(
        service_class=name, phase="x", sent_s=ZERO_S + time_s, prompt_tokens=9, asked_tokens=3, ttft_s=ttft_s,
        gaps_s=list(gaps_s), error=None if ttft_s else "HTTP 503",
    )  # fmt: skip


@pytest.fixture
def watch() -> Watch:
    load: Any = None
    one = Watch("paced", load, lambda *_: None, 0.0)
    one.timeline = [moment(0, 1), moment(1, 1), moment(6, 2), moment(12, 2)]
    change = {
        "time": "2023-11-14T22:13:25Z", "from": {"prefill": 1, "decode": 1}, "to": {"prefill": 2},
        "reason": "DemandUp", "message": "prefill 1 -> 2: 4 < 5 req/s",
    }  # fmt: skip
    one.history = {change["time"]: change}
    return one


def test_the_page(watch: Watch) -> None:
    found = page.html(services.paced(), watch, [sample(1, 0.5, 0.05, 0.2), sample(2, None), sample(3, 1, name="batch")])
    assert "prefill 1 → 2" in found
    assert "4 &lt; 5 req/s" in found, "words of a decision are text, not markup"
    assert "3 requests" in found
    assert "http" not in found.replace("http://www.w3.org", ""), "nothing is fetched"
    assert "/usr" not in found, "no path of the machine"


def test_gpu_hours_are_of_pods_that_exist() -> None:
    found = gpu_hours([moment(0, 1), moment(3600, 3), moment(7200, 3)])
    assert found == {"prefill": pytest.approx(4.0), "decode": pytest.approx(2.0)}


def test_gaps_of_nobody_are_unknown() -> None:
    assert gaps_of([sample(0, 1.0)], 0.1).in_time is None
    assert gaps_of([sample(0, 1.0, 0.05, 0.2)], 0.1).in_time == 0.5
