"""The constants of other laws, chosen on one day that is in no table of RESULTS.md: m-large day 8, 25 requests/s.

    python -m bench.sizing.tune [--seconds 7200] [--write]     # two processes, about 10 minutes: TUNED.md

Each law has one number that trades GPUs for promises. `used` is its constant in llmservice_sim/laws.py and
laws_peers.py: the cheapest value with 99 % of every promise, or one within 5 % of it (hpa's 0.9 was tried when the
comparison with 0.8 had been run). Fast fidelity, A100, start-up 120 s; all begin with 3 prefill and 2 decode replicas.
`as shipped` is the value that its project ships or recommends, where it has one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from bench.sizing.loads import TUNED
from bench.sizing.units import Row, row_of
from llmservice_core.model import Goal, Pool
from llmservice_sim.fast_fleet import FastFleet
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import HPA_TARGETS, Hpa, Law, Rad
from llmservice_sim.laws_peers import Band, Dynamo, KedaSlo, Loops, TokenAware, TokenTargets

RESULTS = Path(__file__).with_name("TUNED.md")
START: Final = {Pool.PREFILL: 3, Pool.DECODE: 2}
PROMISED: Final = 99.0
LOW_OF_HIGH: Final = 8.0 / 11.0
"""keda-slo's dead band begins at this share of its end, 0.40 of 0.55, as shipped."""

USED: Final = {
    "token-aware": TokenTargets().prefill,
    "dynamo": Loops().rate,
    "keda-slo": Band().high,
    "hpa": HPA_TARGETS[Pool.PREFILL],
}

Make = Callable[[Goal, float], Law]
LAWS: dict[str, tuple[str, Make, tuple[float, ...]]] = {
    "token-aware": (
        "share of a prefill replica's token rate",
        lambda goal, x: TokenAware(goal, TokenTargets(prefill=x)),
        (0.9, 0.8, 0.75, 0.7, 0.65),
    ),
    "dynamo": (
        "share of an engine's rate (1 as shipped)",
        lambda goal, x: Dynamo(goal, Loops(rate=x)),
        (1.0, 0.75, 0.7, 0.65, 0.6),
    ),
    "keda-slo": (
        "P90 latency / target that it grows beyond (0.55 as shipped)",
        lambda goal, x: KedaSlo(goal, Band(low=LOW_OF_HIGH * x, high=x)),
        (0.55, 0.65, 0.75, 0.85, 1.0),
    ),
    "hpa": (
        "requests in flight per prefill pod",
        lambda goal, x: Hpa(goal, {**HPA_TARGETS, Pool.PREFILL: x}),
        (0.6, 0.7, 0.8, 0.9, 1.0, 1.5),
    ),
    "rad": ("ours, nothing to choose", lambda goal, _: Rad(goal), (0.0,)),
}


@lru_cache(maxsize=1)
def _trace(seconds: float) -> list[Arrival]:
    return TUNED.trace(seconds)


def served(name: str, value: float, seconds: float) -> Row:
    """The law with this constant on the tuning day."""
    scenario = replace(TUNED.scenario(), initial=START)
    law = LAWS[name][1](scenario.goal, value)
    return row_of(name, FastFleet(scenario, law).run(_trace(seconds)), None)


def chosen(rows: dict[float, Row]) -> float | None:
    """The cheapest that keeps every promise; None where none does."""
    kept = {value: row for value, row in rows.items() if row.least >= PROMISED}
    return min(kept, key=lambda value: kept[value].gpu_hours, default=None)


HEAD = """| law | constant | value | worst kept promise % | good % | GPU-hours | |
| --- | --- | ---: | ---: | ---: | ---: | --- |"""


def lines(name: str, rows: dict[float, Row]) -> list[str]:
    best = chosen(rows) if len(rows) > 1 else None
    found = []
    for value, row in rows.items():
        marks = [mark for mark, at in (("cheapest", best), ("used", USED.get(name))) if value == at]
        cells = [name, LAWS[name][0], f"{value:g}", f"{row.least:.2f}", f"{row.good:.2f}", f"{row.gpu_hours:.2f}"]
        found.append(f"| {' | '.join([*cells, ', '.join(marks)])} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=TUNED.full_s, help="of the day's part")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {RESULTS.name}")
    args = parser.parse_args()
    table = [HEAD]
    print(HEAD, flush=True)
    with ProcessPoolExecutor(max_workers=2) as pool:
        asked = {name: {x: pool.submit(served, name, x, args.seconds) for x in LAWS[name][2]} for name in LAWS}
        for name, runs in asked.items():
            found = lines(name, {x: run.result() for x, run in runs.items()})
            print("\n".join(found), flush=True)
            table += found
    if args.write:
        RESULTS.write_text("\n".join(["# Constants of other laws\n", (__doc__ or "").strip(), "", *table, ""]))


if __name__ == "__main__":
    main()
