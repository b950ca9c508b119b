"""How the sizing laws do on the same loads, and what each step of our planner is worth.

    make evidence                                  # 60 named runs on two processes, up to 2 hours: RESULTS.md
    python -m bench.sizing.evidence --quick        # shorter parts
    python -m bench.sizing.evidence --only "sine 1-24 req/s"
    python -m bench.sizing.evidence --minutes 0 --write    # the tables of what has been run

Simulated (fast fidelity, docs/simulator.md), A100 step times of Llama-3-8B, policy slai, start-up 120 s +- 10 % where
nothing else is said. Every law begins with the sizes that the oracle has at the start. `good` is the share of requests
whose first token came in time and that have at most 1 % of their own token gaps late. An oracle counts as one run, its
search is on top. Each run is kept in results.json as it ends and not done again while the sources of core and
simulator, the load and its settings are the same; none begins when the time is up, and those left out are named.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from bench.sizing import aims, tables
from bench.sizing.cases import Case
from bench.sizing.kept import Kept, fingerprint
from bench.sizing.loads import LOADS, MOST_RUNS
from bench.sizing.units import ORACLE, WITHOUT, Row, row_from, run, start_from

REPORT = Path(__file__).with_name("RESULTS.md")
MINUTES, WORKERS = 120.0, 2
Unit = tuple[Case, str]


class Comparison:
    """Which named runs there are, which of them are done, and what they gave."""

    def __init__(self, cases: Sequence[Case], kept: Kept, is_quick: bool) -> None:
        self.cases, self._kept, self._is_quick = cases, kept, is_quick
        self.units: list[Unit] = [(case, name) for case in cases for name in names(case)]
        if len(self.units) > MOST_RUNS:
            raise ValueError(f"{len(self.units)} named runs, {MOST_RUNS} at most")

    def seconds(self, case: Case) -> float:
        return case.quick_s if self._is_quick else case.full_s

    def key(self, unit: Unit) -> str:
        return fingerprint(unit[0], self.seconds(unit[0]), unit[1])

    def open(self) -> list[Unit]:
        return [unit for unit in self.units if self._kept.get(self.key(unit)) is None]

    def rows(self, case: Case) -> list[Row]:
        found = [self._kept.get(self.key((case, name))) for name in names(case)]
        return [row_from(kept) for kept in found if kept is not None]

    def do(self, minutes: float) -> None:
        """Two at a time, in the order of the loads; a law waits for the oracle of its load."""
        end_s, busy = time.monotonic() + 60 * minutes, dict[Future[dict[str, object]], Unit]()
        with ProcessPoolExecutor(WORKERS) as pool:
            while True:
                while len(busy) < WORKERS and time.monotonic() < end_s and (unit := self._next(busy)):
                    busy[self._begun(pool, unit)] = unit
                if not busy:
                    return
                for done in wait(busy, return_when=FIRST_COMPLETED).done:
                    unit = busy.pop(done)
                    self._kept.put(self.key(unit), unit[0].name, done.result())
                    print(
                        f"{len(self.units) - len(self.open())} of {len(self.units)}: {unit[0].name}, {unit[1]}",
                        flush=True,
                    )

    def _next(self, busy: dict[Future[dict[str, object]], Unit]) -> Unit | None:
        taken = list(busy.values())
        return next((u for u in self.open() if u not in taken and self._is_ready(u)), None)

    def _is_ready(self, unit: Unit) -> bool:
        return unit[1] == ORACLE or self._kept.get(self.key((unit[0], ORACLE))) is not None

    def _begun(self, pool: ProcessPoolExecutor, unit: Unit) -> Future[dict[str, object]]:
        case, name = unit
        oracle = self._kept.get(self.key((case, ORACLE)))
        start = start_from(oracle) if oracle is not None and name != ORACLE else None
        return pool.submit(run, case, self.seconds(case), name, start)


def names(case: Case) -> Iterator[str]:
    yield ORACLE
    yield from case.laws
    yield from (f"{WITHOUT}{step}" for step in case.without)


def report(comparison: Comparison, form: str) -> str:
    rows = {case.name: comparison.rows(case) for case in comparison.cases}
    parts = [f"# Sizing laws on the same loads\n\n{(__doc__ or '').strip()}\n", aims.table(comparison.cases, rows)]
    for case in comparison.cases:
        if rows[case.name]:
            parts += tables.of_case(case, comparison.seconds(case), rows[case.name])
    left = [f"{case.name}: {name}" for case, name in comparison.open()]
    missing = f" Left out: {'; '.join(left)}. The same command goes on." if left else ""
    parts.append(f"Written by {form}: {len(comparison.units) - len(left)} of {len(comparison.units)} runs.{missing}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter parts of the loads")
    parser.add_argument("--only", help="one load by its name")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.name} and its plot")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which no run is begun (120)")
    args = parser.parse_args()
    cases = [case for case in LOADS if args.only in (None, case.name)]
    if not cases:
        parser.error(f"no load {args.only!r}: choose from {', '.join(case.name for case in LOADS)}")
    comparison = Comparison(cases, Kept(), args.quick)
    comparison.do(args.minutes)
    text = report(comparison, f"`make evidence{' Q=--quick' if args.quick else ''}`")
    print(text)
    if args.write:
        REPORT.write_text(text)
        aims.draw(comparison.cases, {case.name: comparison.rows(case) for case in comparison.cases})


if __name__ == "__main__":
    main()
