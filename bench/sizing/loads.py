"""The loads that sizing laws are compared on, in the order that they are run in: 60 named runs.

Of a production day the two hours are taken in which the rate rises most from the first hour to the second, by the
10-minute windows of bench/data/servegen; whole days do not fit into two hours on two cores. deepseek-r1 has 16 hours
in all, the Azure traces 40 minutes. GPUs in a name are about what the peak takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.sizing.cases import BURST, DAY_S, HOUR_S, MINUTE_S, Case, FromFile, Shaped

LARGE, MID, REASON = (f"servegen/{name}_windows.csv.gz" for name in ("m-large", "m-mid", "deepseek-r1"))
CONVERSATION, CODE = "azure-2023/conv_0-40min.csv.gz", "azure-2023/code_0-40min.csv.gz"
SHORT_S, PART_S, QUICK_S = 40 * MINUTE_S, 2 * HOUR_S, 20 * MINUTE_S
RISES_S = {
    (LARGE, 6): 9 * HOUR_S + 10 * MINUTE_S,
    (LARGE, 7): 9 * HOUR_S + 20 * MINUTE_S,
    (LARGE, 8): 6 * HOUR_S + 40 * MINUTE_S,
    (MID, 4): 8 * HOUR_S + 20 * MINUTE_S,
    (MID, 6): 40 * MINUTE_S,
    (REASON, 0): 12 * HOUR_S + 20 * MINUTE_S,
}
"""Seconds after midnight of the steepest two hours; tests/sim/test_sizing_bench.py finds them again."""
EVERY_LAW = ("rad", "rad-static", "token-aware", "dynamo", "keda-slo", "hpa", "static-peak")
STEPS = (
    "trend",
    "ramps",
    "past_errors",
    "square_root",
    "strict",
    "dispersion",
    "hard_width",
    "backlog",
    "slack",
    "feedback",
    "release",
    "stabilise",
)
"""All that can be left out but flips, off in production, and slo_gain, which acts under a budget alone."""


def part(name: str, path: str, day: int, rate_rps: float, laws: Sequence[str], full_s: float = PART_S) -> Case:
    start_s = day * DAY_S + RISES_S[path, day]
    rows = FromFile(path, start_s, rate_rps)
    return Case(name=name, rows=rows, full_s=full_s, quick_s=QUICK_S, laws=tuple(laws))


def short(name: str, path: str, rate_rps: float) -> Case:
    laws = ("rad", "dynamo", "keda-slo")
    return Case(name=name, rows=FromFile(path, 0.0, rate_rps), full_s=SHORT_S, quick_s=QUICK_S, laws=laws)


def burst(shape: str, laws: Sequence[str]) -> Case:
    name = f"{shape} 1-24 req/s"
    return Case(name=name, rows=Shaped(shape), full_s=HOUR_S, quick_s=30 * MINUTE_S, classes=BURST, laws=tuple(laws))


MAIN = replace(part("m-large day 7, 4 GPUs", LARGE, 7, 25.0, EVERY_LAW), without=STEPS)


def _again(what: str, **changes: float | int) -> Case:
    return replace(MAIN, name=f"{MAIN.name}, {what}", laws=("rad",), without=(), **changes)  # type: ignore[arg-type]


LOADS: tuple[Case, ...] = (
    short("azure conversation", CONVERSATION, 6.0),
    short("azure code", CODE, 3.0),
    MAIN,
    _again("start-up 30 s", start_up_s=30.0),
    _again("start-up 300 s", start_up_s=300.0),
    part("m-large day 6, 4 GPUs", LARGE, 6, 25.0, ("rad",)),
    _again("seed 1", seed=1),
    _again("seed 2", seed=2),
    part("deepseek-r1", REASON, 0, 2.0, ("rad", "rad-static", "keda-slo")),
    burst("sine", ("rad", "rad-static", "dynamo")),
    part("m-large day 7, 14 GPUs", LARGE, 7, 90.0, ("rad", "keda-slo")),
    part("m-mid day 4", MID, 4, 60.0, ("rad",)),
    part("m-large day 6, 14 GPUs", LARGE, 6, 90.0, ("rad",)),
    part("m-mid day 6", MID, 6, 60.0, ("rad",)),
    burst("square", ("rad", "dynamo")),
    part("m-large day 7, 56 GPUs", LARGE, 7, 360.0, ("rad",), HOUR_S / 2),
)
TUNED = part("m-large day 8", LARGE, 8, 25.0, ("rad",))
"""The day that constants of laws may be chosen on; it is in no table."""
MOST_RUNS = 60
