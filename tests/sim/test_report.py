"""The page of a run: it asks for nothing from elsewhere, is well-formed, and shows what the run says."""

import re
from html.parser import HTMLParser

import pytest

from llmservice_sim.laws import Hpa
from llmservice_sim.plots import Line, bars, chart, nice, short, ticks
from llmservice_sim.report import page
from llmservice_sim.report_data import as_data, quantiles
from tests.sim.fleets import SPLIT, goal, poisson, run, scenario

VOID = {"meta", "rect", "line"}


class Balanced(HTMLParser):
    """Every element is closed in turn; collects what could reach outside, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.reaching: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.reaching += [(tag, name) for name, _ in attrs if name in ("src", "href", "xlink:href", "onload")]
        if tag not in VOID or (tag == "line" and not self.get_starttag_text().endswith("/>")):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def written() -> str:
    settings = scenario(goal())
    trace = poisson(10, 60, 1)
    ours = as_data(settings.goal, run(settings, trace))
    theirs = as_data(settings.goal, run(settings, trace, Hpa(settings.goal, dict.fromkeys(SPLIT, 4.0))))
    return page("a <b> title", "facts & figures", [ours, theirs])


def test_the_page_asks_for_nothing_from_anywhere(written: str) -> None:
    assert not re.search(r"https?:|//|url\(|@import|<script|<link|<img|<iframe", written)


def test_the_page_is_well_formed_and_whole(written: str) -> None:
    seen = Balanced()
    seen.feed(written)
    assert seen.open == []
    assert seen.reaching == []
    titles = ("Replicas over time", "Load over time", "Promises kept", "Time to first token", "Time between tokens")
    for words in (*titles, "GPU-hours", "a <b> title", "facts & figures", "rad", "hpa"):
        assert words in seen.text
    assert written.count("<svg") == 7
    assert not re.search(r"\b(nan|inf)\b", written.split("</style>")[1])


def test_quantiles_are_values_that_occurred_and_rise() -> None:
    found = quantiles([float(v) for v in range(1, 1001)])
    assert found[-1] == (1.0, 1000.0)
    assert (0.5, 500.0) in found
    assert found == sorted(found)
    assert quantiles([]) == []


def test_drawings_of_nothing_and_of_one_point() -> None:
    assert "nothing to draw" in chart([Line(name="a", points=[])], x_text="s", y_text="n")
    assert "<polyline" in chart([Line(name="a", points=[(0.0, 0.0)])], x_text="s", y_text="n", log_x=True)
    assert "no event" in bars([("a", None, 95.0)], "%")
    assert [nice(v) for v in (0.4, 1, 1.2, 7, 81)] == pytest.approx([0.5, 1, 1.5, 8, 100])


@pytest.mark.parametrize(
    ("low", "high", "most", "found"),
    [
        (0, 3, 5, [0, 1, 2, 3]),
        (0, 30, 5, [0, 10, 20, 30]),
        (0, 100, 5, [0, 50, 100]),
        (0, 487, 7, [0, 100, 200, 300, 400]),
        (0, 0.1, 5, [0, 0.05, 0.1]),
    ],
)
def test_ticks_are_round(low: float, high: float, most: int, found: list[float]) -> None:
    assert ticks(low, high, most) == pytest.approx(found)


def test_axis_numbers_are_short() -> None:
    assert [short(v) for v in (0, 0.25, 1500, 20000, 1500000.0)] == ["0", "0.25", "1500", "20k", "1.5M"]
