"""One named run of the comparison: the oracle of a load, a law on it, or our planner without one step.

The oracle comes first, for it says with which sizes all begin and what the peak takes. Each run is a function of its
load, the law's name and that start alone, so it does not matter which process does it, or when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from bench.sizing.cases import Case
from llmservice_core.model import Pool
from llmservice_core.planner_facts import Settings
from llmservice_sim.fast_fleet import FastFleet
from llmservice_sim.fleet_requests import Outcome
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.fleet_settings import Scenario
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import Law, Rad, Static, law_of
from llmservice_sim.laws_oracle import find

ORACLE, PEAK, WITHOUT = "oracle", "static-peak", "without "
WORST_S = 600.0


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
    peak: int = 0
    """Most GPUs wanted at once."""
    requests: int = 0
    searched: int = 0
    """Whole runs that the search of the oracle took."""

    @property
    def least(self) -> float:
        """The share of the class and promise that is kept worst."""
        return min(share for _, *shares in self.attained for share in shares if share is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Sizes that the oracle has at first and at most, by pool, and its GPU-hours."""

    first: Mapping[str, int]
    peak: Mapping[str, int]
    gpu_hours: float


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
        peak=max((sum(m.desired.values()) for m in result.moments), default=0),
        requests=len(judged),
    )


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


@lru_cache(maxsize=2)
def _trace(case: Case, seconds: float) -> list[Arrival]:
    return case.trace(seconds)


def oracle(case: Case, seconds: float) -> tuple[Row, Start]:
    """The cheapest schedule found that knew the load, and where all other laws begin."""
    trace = _trace(case, seconds)
    found = find(ORACLE, case.scenario(), trace, make=FastFleet)
    row = row_of(ORACLE, FastFleet(found.scenario, found.law).run(trace), None)
    sizes = found.law.sizes
    start = Start(
        first={str(p): n for p, n in found.scenario.initial.items()},
        peak={str(p): max(s[p] for s in sizes) for p in sizes[0]},
        gpu_hours=row.gpu_hours,
    )
    name = ORACLE if found.keeps_all else f"{ORACLE} (cannot keep all)"
    return replace(row, law=name, ratio=1.0, searched=found.runs), start


def served(case: Case, seconds: float, name: str, start: Start) -> Row:
    """A law by its name, "static-peak", or "without STEP"."""
    sizes = {Pool(p): n for p, n in (start.peak if name == PEAK else start.first).items()}
    scenario = replace(case.scenario(), initial=sizes)
    result = FastFleet(scenario, _law(name, scenario)).run(_trace(case, seconds))
    return row_of(name, result, start.gpu_hours)


def _law(name: str, scenario: Scenario) -> Law:
    if name == PEAK:
        return Static(scenario.initial)
    if name.startswith(WITHOUT):
        return Rad(scenario.goal, replace(Settings(), **{name.removeprefix(WITHOUT): False}), name)
    return law_of(name, scenario.goal, scenario.initial, {})


def run(case: Case, seconds: float, name: str, start: Start | None) -> dict[str, Any]:
    """The row, and of the oracle the start, as JSON keeps them."""
    if start is not None:
        return {"row": asdict(served(case, seconds, name, start))}
    row, found = oracle(case, seconds)
    return {"row": asdict(row), "start": asdict(found)}


def row_from(kept: Mapping[str, Any]) -> Row:
    return Row(**{**kept["row"], "attained": [tuple(a) for a in kept["row"]["attained"]]})


def start_from(kept: Mapping[str, Any]) -> Start:
    return Start(**kept["start"])
