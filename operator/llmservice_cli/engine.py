"""`llmservice engine explain URL`: what a live engine does right now, and how much time each request has left."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from llmservice_core import contract

COLUMNS = (
    ("request", "id"), ("class", "class"), ("now", "place"), ("prompt", "prompt_tokens"),
    ("computed", "computed_tokens"), ("tokens", "produced_tokens"), ("age s", "age_s"),
    ("since token s", "since_last_token_s"), ("slack s", "slack_s"),
    ("sat out", "steps_sat_out"),
)  # fmt: skip


def add_to(commands: Any) -> None:
    engine = commands.add_parser("engine", help="look into a running engine")
    actions = engine.add_subparsers(required=True, metavar="ACTION")
    explainer = actions.add_parser("explain", help="the present decision, with each request's slack")
    explainer.add_argument("url", help="of the engine's metrics port: http://POD:9500")
    explainer.add_argument("--json", action="store_true", help="as the engine says it")
    explainer.set_defaults(run=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    if urlsplit(arguments.url).scheme not in ("http", "https"):
        print(f"{arguments.url}: give a URL like http://POD:{contract.PORT_ENGINE_METRICS}", file=sys.stderr)
        return 2
    url = arguments.url.rstrip("/").removesuffix("/metrics") + contract.PATH_SCHEDULE
    try:
        with urlopen(url, timeout=10) as reply:
            found = json.load(reply)
    except (URLError, OSError, ValueError) as e:
        print(f"{url}: no engine of ours answers there ({e}); it is the port of its metrics", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(lines(found)))
    return 0


def lines(found: dict[str, Any]) -> list[str]:
    """The same as text: one line for the engine, one for its plan, one for each request."""
    ratio = found["steps_last_times_the_model"]
    head = (
        f"policy {found['policy']}, step times {found['step_times']}"
        + (f" x {ratio:.3f}" if ratio is not None else "")
        + f", last step {1e3 * found['last_step_s']:.1f} ms, KV cache {found['kv_usage']:.0%} used"
    )
    rows = [[title for title, _ in COLUMNS]]
    rows += [[_text(request[key]) for _, key in COLUMNS] for request in found["requests"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [head, _plan(found["plan"]), "", *table]


def _plan(plan: dict[str, Any] | None) -> str:
    if plan is None:
        return "nothing is held back: vLLM's own loop"
    predicted, slack = plan["predicted_s"], plan["slack_s"]
    return (
        f"{plan['mode']} step: {plan['decodes']} decodes run, {plan['decodes_that_wait']} wait, "
        f"{plan['decodes_with_what_is_left']} take what is left; "
        f"chunks {plan['chunks']} of {plan['budget_tokens']} tokens"
        + (f"; {1e3 * predicted:.1f} ms expected" if predicted is not None else "")
        + (f", {1e3 * slack:.0f} ms until the first that waits is due" if slack is not None else "")
    )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
