"""Rows of runs as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.sizing.cases import Case

if TYPE_CHECKING:
    from bench.sizing.evidence import Row


def compared(case: Case, seconds: float, rows: Sequence[Row], what: str = "") -> str:
    targets = "; ".join(f"{c.name} TTFT {c.ttft.target_s:g} s, TBT {1000 * c.tbt.target_s:g} ms" for c in case.classes)
    title = f"## {case.name}{what}\n\n{seconds / 3600:.3g} h. {targets} (99 % each)."
    return _table(title, rows, "of the oracle")


def ablated(case: Case, seconds: float, rows: Sequence[Row]) -> str:
    title = f"## What each step is worth: rad on {case.name}\n\n{seconds / 3600:.3g} h, one step left out at a time."
    return _table(title, rows, "of all steps")


def _table(title: str, rows: Sequence[Row], ratio: str) -> str:
    classes = [name for name, _, _ in rows[0].attained] if rows else []
    head = ["law", *(f"{name} {slo} %" for name in classes for slo in ("TTFT", "TBT"))]
    head += ["good %", "worst 10 min %", "GPU-hours", ratio, "changes"]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *(_line(_cells(row)) for row in rows)]
    return "\n".join([title, "", *lines, ""])


def _cells(row: Row) -> list[str]:
    shares = [_share(value) for _, ttft, tbt in row.attained for value in (ttft, tbt)]
    ratio = "none" if row.ratio is None else f"{row.ratio:.3f}"
    return [row.law, *shares, f"{row.good:.2f}", f"{row.worst:.1f}", f"{row.gpu_hours:.2f}", ratio, str(row.changes)]


def _share(value: float | None) -> str:
    return "no event" if value is None else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
