"""Tables and the plot of bench.engine.paper: means over seeds, with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from bench.engine.setting import Point
from llmservice_sim.plots import Line, chart

MEDIAN_TARGET_S = 0.5
INK = {"fcfs": "#667085", "slai-published": "#d9822b", "slai": "#2a9d6f", "slai-plus": "#2f6fde"}
STYLE = (
    "text{font:11px sans-serif;fill:#667085}.grid{stroke:#d0d5dd;stroke-width:.5}"
    ".line{fill:none;stroke-width:1.8}.mark{stroke-dasharray:4 3}"
)
CRITERIA: tuple[tuple[str, Callable[[Point], bool]], ...] = (
    ("median < 0.5 s", lambda p: p.ttft_p50_s < MEDIAN_TARGET_S),
    ("the paper's: and TBT p99 of both classes", lambda p: p.meets(MEDIAN_TARGET_S)),
    ("and TTFT p99 <= 10 s", lambda p: p.meets(MEDIAN_TARGET_S, 10.0)),
)


def latencies(points: Sequence[Point], classes: Mapping[str, tuple[float, float]]) -> list[str]:
    """In brackets the spread of the median between the seeds."""
    tbt = " | ".join(f"TBT p99 {name}, ms" for name in classes)
    lines = [f"| req/s | order | TTFT p50, s | against fcfs | p95 | p99 | {tbt} | criterion met |"]
    lines.append("| ---: | --- | ---: | ---: | ---: | ---: |" + " ---: |" * len(classes) + " --- |")
    for rate in sorted({p.rate for p in points}):
        at_rate = [p for p in points if p.rate == rate]
        base_s = statistics.mean(p.ttft_p50_s for p in at_rate if p.order == "fcfs")
        names = dict.fromkeys(p.order for p in at_rate)
        lines += [_row([p for p in at_rate if p.order == name], base_s) for name in names]
    return lines


def _row(seeds: Sequence[Point], base_s: float) -> str:
    medians = [p.ttft_p50_s for p in seeds]
    mean_s = statistics.mean(medians)
    spread = f"{mean_s:.3f} ({min(medians):.3f} to {max(medians):.3f})"
    tails = (statistics.mean(p.ttft_p95_s for p in seeds), statistics.mean(p.ttft_p99_s for p in seeds))
    gaps = [1e3 * statistics.mean(p.tbt_p99_s[name] for p in seeds) for name in seeds[0].tbt_p99_s]
    met = f"{sum(p.meets(MEDIAN_TARGET_S) for p in seeds)} of {len(seeds)}"
    cells = [spread, f"{mean_s / base_s - 1:+.0%}", *(f"{t:.2f}" for t in tails), *(f"{g:.0f}" for g in gaps), met]
    return f"| {seeds[0].rate:g} | {seeds[0].order} | {' | '.join(cells)} |"


def capacities(points: Sequence[Point], overload: Sequence[Point]) -> list[str]:
    """The highest rate of the grid up to which every seed meets a criterion at every rate; and what is served when more
    comes than can be."""
    names = list(dict.fromkeys(p.order for p in overload))
    work = {name: statistics.mean(p.served for p in overload if p.order == name) for name in names}
    lines = ["| criterion, req/s | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for text, is_met in CRITERIA:
        found = [_capacity([p for p in points if p.order == name], is_met) for name in names]
        first = found[0]
        lines.append(f"| {text} | " + " | ".join(_against(rate, first) for rate in found) + " |")
    lines.append("| work served when saturated | " + " | ".join(_against(work[n], work["fcfs"]) for n in names) + " |")
    return lines


def _capacity(points: Sequence[Point], is_met: Callable[[Point], bool]) -> float | None:
    best = None
    for rate in sorted({p.rate for p in points}):
        if not all(is_met(p) for p in points if p.rate == rate):
            break
        best = rate
    return best


def _against(rate: float | None, base: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:.3g}" + (f" ({rate / base - 1:+.0%})" if base and rate != base else "")


def served(points: Sequence[Point]) -> str:
    """All of one setting, offered more than can be served."""
    base = next(p.served for p in points if p.order == "fcfs")
    found = [f"{p.order} {p.served:.3f} ({p.served / base - 1:+.1%})" for p in points]
    return f"Work served with {points[0].rate:.2f} req/s offered: {', '.join(found)}."


def plot(points: Sequence[Point]) -> str:
    """Median TTFT over the rate; a curve ends where it leaves the picture."""
    lines = []
    for name in dict.fromkeys(p.order for p in points):
        rates = sorted({p.rate for p in points if p.order == name})
        medians = [(r, statistics.mean(p.ttft_p50_s for p in points if (p.order, p.rate) == (name, r))) for r in rates]
        shown = [(r, s) for r, s in medians if s <= 2 * MEDIAN_TARGET_S]
        lines.append(Line(name=name, points=shown, colour=INK.get(name)))
    low = min(p.rate for p in points)
    drawn = chart(
        [_from(line, low) for line in lines], x_text=f"req/s above {low:g}", y_text="median TTFT, s", marks=()
    )
    svg = drawn[: drawn.index("</svg>")]
    legend = "".join(
        f'<text x="{60 + 140 * i}" y="12" style="fill:{line.colour}">{line.name}</text>' for i, line in enumerate(lines)
    )
    return (
        svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f"><style>{STYLE}</style>", 1)
        + f'<g transform="translate(80,0)">{legend}</g></svg>\n'
    )


def _from(line: Line, low: float) -> Line:
    return Line(name=line.name, points=[(x - low, y) for x, y in line.points], colour=line.colour)
