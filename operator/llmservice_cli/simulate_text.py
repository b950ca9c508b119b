"""What `llmservice simulate` says in a terminal: tables and a progress bar, plain text."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

Run = Mapping[str, Any]
BAR = 30
MOST_DECISIONS = 12


class Bar:
    """On stderr, and only where that is a terminal."""

    def __init__(self, name: str) -> None:
        self._name, self._began_s = name, time.monotonic()

    def show(self, virtual_s: float, done: int, total: int) -> None:
        filled = round(BAR * done / max(1, total))
        spent_s = time.monotonic() - self._began_s
        left_s = spent_s * (total - done) / done if done else 0.0
        bar = "#" * filled + "." * (BAR - filled)
        sys.stderr.write(f"\r{self._name} [{bar}] {done}/{total} requests, {virtual_s:.0f} s, {left_s:.0f} s left  ")
        sys.stderr.flush()

    def count(self, runs: int) -> None:
        """For a search, which does not know how many runs it needs."""
        sys.stderr.write(f"\r{self._name}: run {runs} of a search for the fewest GPU-hours  ")
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r" + " " * 100 + "\r")


def title(facts: Mapping[str, Any], runs: Sequence[Run]) -> str:
    return f"{facts['service']} on {facts['gpu']}: law {', '.join(run['law'] for run in runs)}"


def facts(facts: Mapping[str, Any], runs: Sequence[Run]) -> str:
    requests = sum(c["requests"] for c in runs[0]["classes"])
    return (
        f"Simulated, no GPU ran. {requests} requests of {facts['trace']} over {runs[0]['seconds']:.0f} s,"
        f" policy {runs[0]['policy']}, seed {facts['seed']}."
    )


def table(facts_: Mapping[str, Any], runs: Sequence[Run]) -> str:
    blocks = [f"{title(facts_, runs)}\n{facts(facts_, runs)}\n"]
    blocks += [_run(run) for run in runs]
    if len(runs) > 1:
        blocks.append(_compared(runs))
    return "\n".join(blocks)


def _run(run: Run) -> str:
    head = ["class", "requests", "ok", "TTFT kept", "p50", "p95", "p99", "TBT kept", "p99", "good"]
    rows = [
        [
            c["name"],
            str(c["requests"]),
            str(c["outcomes"].get("ok", 0)),
            _kept(c, "ttft"),
            *(_seconds(c[f"ttft_{p}_s"]) for p in ("p50", "p95", "p99")),
            _kept(c, "tbt"),
            _seconds(c["tbt_p99_s"]),
            _percent(c["good_requests"]),
        ]
        for c in run["classes"]
    ]
    return "\n".join([*columns(head, rows), *_others(run), "", *_pools(run), "", *_decisions(run), ""])


def _others(run: Run) -> list[str]:
    """Requests that did not end well; silence where all did."""
    lines = []
    for c in run["classes"]:
        others = [f"{n} {outcome}" for outcome, n in c["outcomes"].items() if outcome != "ok"]
        if others:
            lines.append(f"{c['name']}: {', '.join(others)}")
    if any("refused" in line for line in lines):
        lines.append("refused: longer than maxModelLen or than the KV memory, no event of any promise")
    return lines


def _pools(run: Run) -> list[str]:
    rows = []
    for pool, hours in run["gpu_hours"].items():
        if pool == "total":
            rows.append(["total", f"{hours:.3f}", "", "", ""])
            continue
        ready = [m["ready"][pool] for m in run["moments"]] or [0]
        most = max((m["desired"][pool] for m in run["moments"]), default=0)
        rows.append([pool, f"{hours:.3f}", f"{sum(ready) / len(ready):.2f}", str(max(ready)), str(most)])
    return columns(["pool", "GPU-hours", "ready, mean", "most ready", "most decided"], rows)


def _decisions(run: Run) -> list[str]:
    decisions = run["decisions"]
    if not decisions:
        return [f"{run['law']} changed no size"]
    lines = [f"{len(decisions)} changes by {run['law']}:"]
    lines += [
        f"  {d['time_s']:>7.0f} s  {_sizes(d)}  {d['reason']}: {d['why']}"[:220] for d in decisions[:MOST_DECISIONS]
    ]
    if len(decisions) > MOST_DECISIONS:
        lines.append(f"  and {len(decisions) - MOST_DECISIONS} more (--json or --html has them all)")
    return lines


def _sizes(decision: Mapping[str, Any]) -> str:
    return " ".join(f"{pool} {size}" for pool, size in decision["to"].items())


def _compared(runs: Sequence[Run]) -> str:
    """Good requests of all classes together, so that one number stands beside the GPU-hours."""
    base = runs[0]["gpu_hours"]["total"]
    rows = []
    for run in runs:
        worst = [
            min((c[f"{slo}_attainment"] or 0.0) - c[f"{slo}_percentile"] for c in run["classes"])
            for slo in ("ttft", "tbt")
        ]
        is_met = "yes" if min(worst) >= 0 else "no"
        hours = run["gpu_hours"]["total"]
        rows.append(
            [run["law"], f"{hours:.3f}", f"{hours / base:.2f}" if base else "none", is_met, str(len(run["decisions"]))]
        )
    return "\n".join(columns(["law", "GPU-hours", "of the first", "all kept", "changes"], rows)) + "\n"


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def _kept(c: Mapping[str, Any], slo: str) -> str:
    share, wanted = c[f"{slo}_attainment"], c[f"{slo}_percentile"]
    if share is None:
        return "no event"
    return f"{share:.2f}% in {_seconds(c[f'{slo}_target_s'])} ({'met' if share >= wanted else 'MISSED'}, {wanted:g}%)"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}%"


def _seconds(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{1000 * value:.3g}ms" if value < 1 else f"{value:.3g}s"
