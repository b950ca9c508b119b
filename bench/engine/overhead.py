"""What our scheduler adds to a step: policy, gap counters, step statistics. No model runs.

    python -m bench.engine.overhead [--running 16 64 256 1024] [--waiting 0 100 10000] [--write]

CPU of schedule() and update_from_output() together, thread time, in one process that steps stock vLLM and ours in turn
(tests/serving/engine_drive.py): medians over rounds. Every running request decodes in each step. With requests waiting,
all seats but one are taken by decodes, and prompts of 100 to 800 tokens with an answer of one token stream through:
each step has prompt work, so each is planned. `fcfs` is vLLM's order with our counters: what all policies pay.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llmservice_core.policies import NAMES
from tests.serving.engine_room import run_inside

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "serving" / "engine_drive.py"
RESULTS = Path(__file__).with_name("OVERHEAD.md")
STOCK = "stock,fcfs"
POLICIES = ("fcfs", "slai-plus", "slai", "vtc")


def microseconds(running: int, waiting: int, policies: Sequence[str]) -> dict[str, float]:
    kinds = [STOCK, *(f"ours,{policy}" for policy in policies)]
    found: dict[str, float] = run_inside(SCRIPT, "cost", str(running), str(waiting), *kinds, timeout_s=600)
    return {kind.partition(",")[2] if kind != STOCK else STOCK: us for kind, us in found.items()}


def row(running: int, waiting: int, policies: Sequence[str]) -> str:
    us = microseconds(running, waiting, policies)
    cells = [f"{us[p] / us[STOCK]:.2f}" for p in policies]
    return f"| {running} | {waiting} | {us[STOCK]:.0f} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--running", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--waiting", type=int, nargs="+", default=[0, 100, 10_000])
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=NAMES)
    parser.add_argument("--write", action="store_true", help="keep the table in bench/engine/OVERHEAD.md")
    args = parser.parse_args()
    names = " | ".join(f"{p} / stock" for p in args.policies)
    lines = [f"| running | waiting | stock, us per step | {names} |"]
    lines.append("| ---: | ---: | ---: |" + " ---: |" * len(args.policies))
    lines += [row(running, waiting, args.policies) for running in args.running for waiting in args.waiting]
    print("\n".join(lines), flush=True)
    if args.write:
        head = ["# CPU time of the step loop, without the model", "", (__doc__ or "").strip(), ""]
        RESULTS.write_text("\n".join([*head, *lines, ""]))


if __name__ == "__main__":
    main()
