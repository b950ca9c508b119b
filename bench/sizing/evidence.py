"""How the sizing laws do on the same loads, and what each step of our planner is worth.

    make evidence                                  # 6 loads, 8 laws, 9 steps left out, 2 start-up times: RESULTS.md
    python -m bench.sizing.evidence --quick        # on shorter parts, with a rougher search for the oracle of bursts
    python -m bench.sizing.evidence --quick --only "sine 1-24 req/s" --laws rad,dynamo

Simulated (fast fidelity, docs/simulator.md), A100 step times of Llama-3-8B, policy slai, start-up 120 s +- 10 %. Every
law begins with the sizes that the oracle has at the start. `good` is the share of requests whose first token came in
time and that have at most 1 % of their own token gaps late. At most 60 named runs (an oracle counts as
one, its search is on top); none begins after two hours (quick: ten minutes), and those left out are counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from bench.sizing import tables
from bench.sizing.cases import ABLATED, BURSTS, CASES, Case
from llmservice_core.planner_facts import Settings
from llmservice_sim.fast_fleet import FastFleet
from llmservice_sim.fleet_requests import Outcome
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.fleet_settings import Scenario
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import Law, Rad, Static, law_of
from llmservice_sim.laws_oracle import Found, find

REPORT = Path(__file__).with_name("RESULTS.md")
LAWS = ("rad", "rad-static", "token-aware", "dynamo", "keda-slo", "hpa")
BUDGET_MIN = {False: 120.0, True: 10.0}
MOST_RUNS = 60
WORST_S = 600.0
START_UPS_S = (30.0, 300.0)
BURST_LAWS = ("rad", "rad-static", "dynamo", "token-aware")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one named run was like. Shares in per cent; `ratio` to the oracle's GPU-hours."""

    law: str
    attained: Sequence[tuple[str, float | None, float | None]]
    """Of each class: name, TTFT and TBT."""
    good: float
    worst: float
    """Good requests of the worst ten minutes."""
    gpu_hours: float
    ratio: float | None
    changes: int


class Clock:
    """Counts runs and seconds; says when enough is enough."""

    def __init__(self, seconds: float) -> None:
        self._end_s = time.monotonic() + seconds
        self.runs, self.left_out = 0, 0

    def permits(self, runs: int = 1) -> bool:
        if self.runs + runs > MOST_RUNS or time.monotonic() > self._end_s:
            self.left_out += runs
            return False
        self.runs += runs
        return True


def row_of(name: str, result: FleetResult, oracle_hours: float | None) -> Row:
    judged = [r for r in result.requests if r.outcome is not Outcome.REFUSED]
    bins: dict[int, list[bool]] = {}
    for r in judged:
        bins.setdefault(int(r.asked.time_s / WORST_S), []).append(r.is_good)
    shares = [100 * sum(b) / len(b) for b in bins.values()]
    hours = result.total_gpu_hours
    return Row(
        law=name,
        attained=[(c.name, _percent(c.ttft_share), _percent(c.tbt_share)) for c in result.classes],
        good=100 * sum(r.is_good for r in judged) / len(judged),
        worst=min(shares),
        gpu_hours=hours,
        ratio=hours / oracle_hours if oracle_hours else None,
        changes=len(result.decisions),
    )


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def compared(case: Case, seconds: float, laws: Sequence[str], clock: Clock, rough: bool) -> Iterator[Row]:
    """The oracle first: it says where all begin."""
    if not clock.permits(len(laws) + 2):
        return
    trace, found, oracle = _oracle(case, seconds, rough)
    yield oracle
    peak = {pool: max(sizes[pool] for sizes in found.law.sizes) for pool in found.law.sizes[0]}
    makers: list[tuple[str, Callable[[Scenario], Law]]] = [(n, _maker(n)) for n in laws]
    makers.append(("static-peak", lambda _: Static(peak)))
    for name, make in makers:
        scenario = replace(found.scenario, initial=peak) if name == "static-peak" else found.scenario
        yield row_of(name, FastFleet(scenario, make(scenario)).run(trace), oracle.gpu_hours)


def _maker(name: str) -> Callable[[Scenario], Law]:
    return lambda scenario: law_of(name, scenario.goal, scenario.initial, {})


def _oracle(case: Case, seconds: float, rough: bool) -> tuple[list[Arrival], Found, Row]:
    trace = case.trace(seconds)
    found = find("oracle", case.scenario(), trace, make=FastFleet, separate=not rough)
    result = FastFleet(found.scenario, found.law).run(trace)
    name = "oracle" if found.keeps_all else "oracle (cannot keep all)"
    return trace, found, row_of(name, result, result.total_gpu_hours)


def ablations(case: Case, seconds: float, clock: Clock) -> Iterator[Row]:
    """rad with one step left out at a time, or with one that is off in production; ratios are to rad itself."""
    trace, scenario = case.trace(seconds), _steady(case, seconds)
    whole = None
    for name in ("", *(f.name for f in fields(Settings))):
        if clock.permits():
            is_on = bool(name) and getattr(Settings(), name)
            settings = replace(Settings(), **{name: not is_on}) if name else Settings()
            result = FastFleet(scenario, Rad(scenario.goal, settings)).run(trace)
            whole = whole or result.total_gpu_hours
            yield row_of(f"{'without' if is_on else 'with'} {name}" if name else "all steps", result, whole)


def _steady(case: Case, seconds: float) -> Scenario:
    """Begins with what the planner itself came to in the first part of the same load."""
    scenario = case.scenario()
    warm = FastFleet(scenario, Rad(scenario.goal)).run(case.trace(min(seconds, 900.0)))
    return replace(scenario, initial=warm.moments[-1].desired)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter parts of the loads")
    parser.add_argument("--only", help="one load by its name, without ablations and start-up times")
    parser.add_argument("--laws", default=",".join(LAWS))
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.name}")
    parser.add_argument("--minutes", type=float, help="after which no load is begun (120; quick: 10)")
    args = parser.parse_args()
    minutes = args.minutes or BUDGET_MIN[args.quick]
    clock, began_s = Clock(60 * minutes), time.monotonic()
    report = Report(REPORT if args.write else None)

    def compare(case: Case, laws: Sequence[str], what: str = "") -> None:
        seconds = case.quick_s if args.quick else case.full_s
        rough = args.quick and case in BURSTS
        rows = list(compared(case, seconds, laws, clock, rough))
        report.tell(tables.compared(case, seconds, rows, what) if rows else f"## {case.name}{what}\n\nNo time left.\n")

    laws = args.laws.split(",")
    for case in CASES:
        if args.only in (None, case.name):
            compare(case, laws)
    if args.only is None:
        seconds = ABLATED.quick_s if args.quick else ABLATED.full_s
        report.tell(tables.ablated(ABLATED, seconds, list(ablations(ABLATED, seconds, clock))))
    for case in BURSTS:
        if args.only in (None, case.name):
            compare(case, BURST_LAWS)
    if args.only is None and not args.quick:
        for start_up_s in START_UPS_S:
            compare(replace(ABLATED, start_up_s=start_up_s), ("rad",), f", start-up {start_up_s:g} s")
    form = f"`make evidence{' Q=--quick' if args.quick else ''}`" + (f" --minutes {minutes:g}" if args.minutes else "")
    missing = f" {clock.left_out} runs were left out when time was up." if clock.left_out else ""
    report.tell(f"Written by {form}: {clock.runs} runs in {time.monotonic() - began_s:.0f} s.{missing}\n")


class Report:
    """Told and, if wanted, written part by part: a run that is stopped leaves what it has."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._parts = path, [f"# Sizing laws on the same loads\n\n{(__doc__ or '').strip()}\n"]

    def tell(self, part: str) -> None:
        print(part, flush=True)
        self._parts.append(part)
        if self._path is not None:
            self._path.write_text("\n".join(self._parts))


if __name__ == "__main__":
    main()
