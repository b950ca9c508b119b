"""What our scheduler adds to a step: order, gap counters, step statistics. No model runs; every request decodes.

    python -m bench.engine.overhead [--write]

Medians of several runs of tests/serving/engine_drive.py, stock vLLM against ours, taken in turn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from tests.serving.engine_room import run_inside

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "serving" / "engine_drive.py"
RESULTS = Path(__file__).with_name("OVERHEAD.md")
ROUNDS = 3
RUNNING = (16, 64)


def step_us(which: str, policy: str, running: int) -> float:
    return float(run_inside(SCRIPT, "cost", which, policy, str(running))["us_per_step"])


def row(running: int) -> str:
    pairs = [(step_us("stock", "fcfs", running), step_us("ours", "slai", running)) for _ in range(ROUNDS)]
    stock, ours = (median(column) for column in zip(*pairs, strict=True))
    return f"| {running} | {stock:.0f} | {ours:.0f} | {ours - stock:.0f} | {(ours - stock) / running:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the table in bench/engine/OVERHEAD.md")
    args = parser.parse_args()
    head = "| running | stock, us of CPU per step | ours | more | per request |\n| ---: | ---: | ---: | ---: | ---: |"
    table = "\n".join([head, *(row(running) for running in RUNNING)])
    print(table)
    if args.write:
        title = "# CPU time of the step loop, without the model\n\n`python -m bench.engine.overhead --write`"
        RESULTS.write_text(f"{title}\n\n{table}\n")


if __name__ == "__main__":
    main()
