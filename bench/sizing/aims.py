"""The aims of the comparison against what was measured, as a table, and all laws in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.sizing.cases import Case
from bench.sizing.tables import line
from bench.sizing.units import ORACLE, WITHOUT, Row

PLOT = Path(__file__).with_name("results.svg")
ATTAINED = 99.0
RATIOS = {30.0: 1.07, 120.0: 1.07, 300.0: 1.13}
"""Most GPU-hours against the oracle's, by start-up time."""
BURST_GOOD = {"sine 1-24 req/s": 97.0}
SIZED = ("4 GPUs", "14 GPUs")
"""Loads that the aim of `RATIOS` is for."""
OURS = "rad"
INK = {OURS: "#1b6ca8", "rad-static": "#3a9d5d", "keda-slo": "#b5651d", "dynamo": "#8e44ad"}
OTHER, WIDTH, HEIGHT, LEFT, TOP = "#777777", 640, 300, 46, 20
WORST_SHOWN, MOST_SHOWN = 90.0, 2.0


class Verdict(NamedTuple):
    aim: str
    kept: str


def table(cases: Sequence[Case], rows: Mapping[str, Sequence[Row]]) -> str:
    head = ["load", "worst kept promise of rad %", "of the oracle", "aim", "met", "cheapest law with 99 %"]
    lines = [line(head), line(["---", "---:", "---:", "---", "---", "---"])]
    for case in cases:
        found = rows[case.name]
        own = next((r for r in found if r.law == OURS), None)
        if own is not None and own.ratio is not None:
            aim, kept = verdict(case, own)
            lines.append(line([case.name, f"{own.least:.2f}", f"{own.ratio:.3f}", aim, kept, cheapest(found)]))
    return "\n".join(["## Aims\n", *lines, "", "![attainment over GPU-hours](results.svg)", ""])


def verdict(case: Case, own: Row) -> Verdict:
    if case.name in BURST_GOOD:
        wanted = BURST_GOOD[case.name]
        return Verdict(f">= {wanted:g} % good", "yes" if own.good >= wanted else f"no: {own.good:.2f} %")
    if not any(size in case.name for size in SIZED):
        return Verdict("none", "")
    most = RATIOS[case.start_up_s]
    missed = [f"{own.least:.2f} %"] if own.least < ATTAINED else []
    missed += [f"{own.ratio:.3f}"] if (own.ratio or 0.0) > most else []
    return Verdict(f">= 99 % at <= {most:g}", f"no: {', '.join(missed)}" if missed else "yes")


def cheapest(rows: Sequence[Row]) -> str:
    """Of the laws that do not know the load and keep every promise."""
    laws = [r for r in rows if not r.law.startswith((ORACLE, WITHOUT)) and r.law != "static-peak"]
    able = [r for r in laws if r.least >= ATTAINED]
    best = min(able, key=lambda r: r.gpu_hours, default=None)
    among = f"of {len(laws)}" if len(laws) > 1 else "the only one run"
    return f"none {among}" if best is None else f"{best.law} ({best.gpu_hours:.2f} GPU-hours, {among})"


def draw(cases: Sequence[Case], rows: Mapping[str, Sequence[Row]]) -> None:
    """One dot for each law on each load: the worst kept promise over the GPU-hours of the oracle."""
    points = [
        (r.law, r.ratio, r.least)
        for case in cases
        for r in rows[case.name]
        if r.ratio is not None and not r.law.startswith((ORACLE, WITHOUT))
    ]
    PLOT.write_text(_svg(points))


def _svg(points: Sequence[tuple[str, float, float]]) -> str:
    dots = [
        f'<circle cx="{_x(ratio):.1f}" cy="{_y(least):.1f}" r="4" fill="{INK.get(law, OTHER)}">'
        f"<title>{law} {ratio:.2f} x, {least:.2f} %</title></circle>"
        for law, ratio, least in points
    ]
    names = [*INK.items(), ("others", OTHER)]
    legend = [f'<text x="{LEFT + 100 * i}" y="12" fill="{ink}">{name}</text>' for i, (name, ink) in enumerate(names)]
    grid = [_rule(f"{v:g} %", _y(v)) for v in (WORST_SHOWN, 95.0, ATTAINED, 100.0)]
    ticks = [f'<text x="{_x(v) - 8:.0f}" y="{HEIGHT - 22}">{v:g}</text>' for v in (0.5, 1.0, 1.5, MOST_SHOWN)]
    note = f'<text x="{LEFT}" y="{HEIGHT - 6}">GPU-hours of the oracle; dots at the edge lie beyond it</text>'
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, *grid, *ticks, *dots, *legend, note, "</svg>", ""])


def _x(ratio: float) -> float:
    return LEFT + (WIDTH - LEFT - 20) * min(MOST_SHOWN, ratio) / MOST_SHOWN


def _y(share: float) -> float:
    height = HEIGHT - TOP - 50
    return TOP + 10 + height * (100.0 - max(WORST_SHOWN, share)) / (100.0 - WORST_SHOWN)


def _rule(text: str, y: float) -> str:
    line_at = f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#cccccc"/>'
    return f'{line_at}<text x="4" y="{y + 4:.1f}">{text}</text>'
