"""Rows of runs as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bench.sizing.cases import Case
from bench.sizing.units import WITHOUT, Row


def of_case(case: Case, seconds: float, rows: Sequence[Row]) -> list[str]:
    """The laws, and what each step is worth where steps were left out."""
    laws = [r for r in rows if not r.law.startswith(WITHOUT)]
    parts = [compared(case, seconds, laws)]
    if len(laws) < len(rows):
        steps = [r for r in rows if r.law == "rad" or r.law.startswith(WITHOUT)]
        parts.append(_table(f"## What each step is worth: rad on {case.name}, one step left out at a time", steps))
    return parts


def compared(case: Case, seconds: float, rows: Sequence[Row]) -> str:
    targets = "; ".join(f"{c.name} TTFT {c.ttft.target_s:g} s, TBT {1000 * c.tbt.target_s:g} ms" for c in case.classes)
    first = rows[0]
    title = f"## {case.name}\n\n{seconds / 3600:.3g} h, {first.requests} requests. {targets} (99 % each)."
    if first.searched:
        title += f" The oracle's search took {first.searched} runs; its peak is {first.peak} GPUs."
    return _table(title, rows)


def _table(title: str, rows: Sequence[Row]) -> str:
    classes = [name for name, _, _ in rows[0].attained] if rows else []
    head = ["law", *(f"{name} {slo} %" for name in classes for slo in ("TTFT", "TBT"))]
    head += ["good %", "worst 10 min %", "GPU-hours", "of the oracle", "changes"]
    lines = [line(head), line(["---", *["---:"] * (len(head) - 1)]), *(line(_cells(row)) for row in rows)]
    return "\n".join([title, "", *lines, ""])


def _cells(row: Row) -> list[str]:
    shares = [_share(value) for _, ttft, tbt in row.attained for value in (ttft, tbt)]
    ratio = "none" if row.ratio is None else f"{row.ratio:.3f}"
    return [row.law, *shares, f"{row.good:.2f}", f"{row.worst:.1f}", f"{row.gpu_hours:.2f}", ratio, str(row.changes)]


def _share(value: float | None) -> str:
    return "no event" if value is None else f"{value:.2f}"


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
