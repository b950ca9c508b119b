"""The page of a run: one HTML file that asks for nothing from anywhere. Drawn from report_data; runs compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from llmservice_sim.plots import COLOURS, Line, Mark, bars, chart

Run = Mapping[str, Any]

STYLE = """
:root{--bg:#fff;--ink:#1d2430;--soft:#667085;--rule:#e3e7ee;--one:#2f6fde;--two:#d9822b;--three:#2a9d6f;--four:#8e5bd0;
--five:#c2477f;--six:#5b7083;--miss:#c93a3a}
@media (prefers-color-scheme:dark){:root{--bg:#14181f;--ink:#e6eaf1;--soft:#98a3b5;--rule:#2c3442;--one:#6aa0ff;
--two:#f0a35a;--three:#55c99a;--four:#b58bf0;--five:#ee7fb0;--six:#9fb2c6;--miss:#ff7a70}}
body{background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,sans-serif;max-width:1380px;margin:0 auto;
padding:20px}
h1{font-size:22px;margin:0 0 2px}h2{font-size:16px;margin:0 0 6px}.facts{color:var(--soft);margin:0 0 18px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:26px}
section{min-width:0}.scroll{margin-bottom:22px}svg{width:100%;height:auto;display:block}
svg text{fill:var(--ink);font-size:12px}
svg .axis{fill:var(--soft);font-size:11px}.grid{stroke:var(--rule)}.line{fill:none;stroke-width:1.8}
.mark{stroke-dasharray:5 3;stroke-width:1.4}.target{stroke:var(--ink);stroke-width:2}
.legend{margin:2px 0;color:var(--soft);font-size:13px}.legend span{margin-right:14px}
.legend i{display:inline-block;width:10px;height:10px;margin-right:5px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px}
th,td{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--rule);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.note,.none{color:var(--soft);font-size:13px}
"""


def page(title: str, facts: str, runs: Sequence[Run]) -> str:
    """The first run in full, and what the others cost and kept beside it."""
    first = runs[0]
    parts = [
        _section("Replicas over time", _replicas(first), "Solid: Ready. Dashed: decided."),
        _section("Load over time", _arrivals(first), ""),
        _section("Promises kept", _attainment(first), "Stroke: the share that was promised. Red: missed."),
        _section("Work waiting over time", _waiting(first), ""),
        _section("Time to first token", _distribution(first, "ttft"), "Share of requests within. Dashed: targets."),
        _section("Time between tokens", _distribution(first, "tbt"), "Share of token gaps within. Dashed: targets."),
        _section("GPU-hours", _gpu_hours(runs), "Start-ups and drains of pods included."),
    ]
    body = f'<div class="plots">{"".join(parts)}</div>{_classes(runs)}{_decisions(first)}'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<h1>{escape(title)}</h1><p class="facts">{escape(facts)}</p>{body}</body></html>\n'
    )


def _section(title: str, drawing: str, note: str) -> str:
    text = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{drawing}{text}</section>"


def _replicas(run: Run) -> str:
    moments = run["moments"]
    lines = []
    for i, pool in enumerate(moments[0]["desired"] if moments else ()):
        for kind, dashed in (("ready", False), ("desired", True)):
            points = [(m["time_s"], m[kind][pool]) for m in moments]
            name = pool if kind == "ready" else f"{pool}, decided"
            lines.append(Line(name=name, points=points, is_step=True, is_dashed=dashed, colour=COLOURS[i]))
    return chart(lines, x_text="seconds", y_text="replicas")


def _arrivals(run: Run) -> str:
    points = [(m["time_s"], m["arrivals_rps"]) for m in run["moments"]]
    return chart([Line(name="requests", points=points)], x_text="seconds", y_text="requests/s")


def _waiting(run: Run) -> str:
    points = [(m["time_s"], m["waiting_prompt_tokens"]) for m in run["moments"]]
    return chart([Line(name="prompt tokens", points=points)], x_text="seconds", y_text="prompt tokens waiting")


def _attainment(run: Run) -> str:
    rows = []
    for c in run["classes"]:
        rows.append((f"{c['name']} TTFT {_time(c['ttft_target_s'])}", c["ttft_attainment"], c["ttft_percentile"]))
        rows.append((f"{c['name']} TBT {_time(c['tbt_target_s'])}", c["tbt_attainment"], c["tbt_percentile"]))
    return bars(rows, "%", 100.0)


def _distribution(run: Run, kind: str) -> str:
    lines, marks = [], []
    for i, c in enumerate(run["classes"]):
        colour = COLOURS[i % len(COLOURS)]
        lines.append(Line(name=c["name"], points=[(v, 100 * s) for s, v in c[f"{kind}_quantiles_s"]], colour=colour))
        target_s = c[f"{kind}_target_s"]
        marks.append(Mark(x=target_s, name=f"{c['name']}: {_time(target_s)}", colour=colour))
    return chart(lines, x_text="seconds", y_text="per cent", marks=marks, log_x=True)


def _gpu_hours(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return bars([(run["law"], run["gpu_hours"]["total"], None) for run in runs], "GPU-h")
    return bars([(pool, hours, None) for pool, hours in runs[0]["gpu_hours"].items()], "GPU-h")


def _classes(runs: Sequence[Run]) -> str:
    ttft, tbt = ["TTFT kept %", "p50 s", "p95 s", "p99 s"], ["TBT kept %", "p99 s"]
    head = ["law", "class", "requests", *ttft, *tbt, "good %", "GPU-hours"]
    keys = ("ttft_attainment", "ttft_p50_s", "ttft_p95_s", "ttft_p99_s", "tbt_attainment", "tbt_p99_s", "good_requests")
    rows = [
        [
            run["law"],
            c["name"],
            str(c["requests"]),
            *(_number(c[key]) for key in keys),
            _number(run["gpu_hours"]["total"]),
        ]
        for run in runs
        for c in run["classes"]
    ]
    return _table("Classes", head, rows, numbers_from=2)


def _decisions(run: Run) -> str:
    head = ["second", "change", "reason", "why"]
    rows = [[f"{d['time_s']:g}", _sizes(d), d["reason"], d["why"]] for d in run["decisions"]]
    return _table(f"Decisions of {run['law']}", head, rows) if rows else '<p class="none">No size ever changed.</p>'


def _sizes(decision: Mapping[str, Any]) -> str:
    before, after = decision["from"], decision["to"]
    return ", ".join(f"{p} {before[p]} → {after[p]}" for p in after if after[p] != before[p])


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 99) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = (' class="n"' if i >= numbers_from else "" for i in range(len(row)))
        return "".join(f"<{tag}{kind}>{escape(text)}</{tag}>" for kind, text in zip(kinds, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<h2>{escape(title)}</h2><div class="scroll"><table><tr>{cells("th", head)}</tr>{body}</table></div>'


def _time(seconds: float) -> str:
    return f"{1000 * seconds:g} ms" if seconds < 1 else f"{seconds:g} s"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
