"""The engine's policies in the paper's setting, simulated step by step: latency, capacity, and where they lose.

    python -m bench.engine.paper [--seeds 3] [--requests 4000] [--quick] [--write]

Mistral-7B on the step times of bench/data/step-times, ShareGPT lengths, Poisson arrivals, 5 % strict users (TBT 0.1 s)
and 95 % relaxed (0.5 s), 512 tokens per step (slai-plus chooses, up to 768), 128 requests at once, 14,733 KV blocks of
16 tokens. `fcfs` is vLLM's own order, running requests first and prompts in chunks: Sarathi-Serve's. All orders see the
same requests. Every run ends when its last request does, so that no slow one is left out; the first 5 % of the requests
are not counted. --quick: a tenth of it. --write keeps the tables in PAPER.md and the plot in paper.svg.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from bench.engine import paper_tables as tables
from bench.engine.setting import PAPER, PLUS, Card, Order, Point, Setting, order, point

REPORT = Path(__file__).with_name("PAPER.md")
PLOT = Path(__file__).with_name("paper.svg")
MAIN = tuple(order(p) for p in ("fcfs", "slai-published", "slai", PLUS))
GRID = (1.0, 1.1, 1.2, 1.25, 1.3, 1.4, 1.5, 1.55, 1.6, 1.65, 1.7, 1.75, 1.8)
OTHERS = (
    Order(name="rad", policy="rad"),
    Order(name="rad, one prompt a tile", policy="rad", settings={"is_packed": False}),
    Order(name="slai, FCFS, Theta 10", policy="slai-published",
          settings={"offset": 10.0, "shortest_first": False, "strict_first": False}),
    Order(name="slai, SPF, Theta 10", policy="slai-published", settings={"offset": 10.0, "strict_first": False}),
    Order(name="slai, SPF, Theta 5/10, no priority", policy="slai-published", settings={"strict_first": False}),
    *(order(p) for p in ("spf", "sjf", "edf", "vtc", "mlfq")),
)  # fmt: skip
COMPARED = tuple(order(p) for p in ("fcfs", "slai-published", PLUS))
SATURATING = 1.35
"""Offered over the highest rate of a setting, to see how much is served."""
CLASSES = PAPER.classes
SETTINGS: tuple[tuple[Setting, tuple[float, ...]], ...] = (
    (replace(PAPER, name="steps 15 % longer than believed, 10 % noise", card=Card(slower=1.15, noise=0.1)),
     (1.25, 1.5)),
    (replace(PAPER, name="strict users 20 %", classes={"strict": (0.2, 0.1), "relaxed": (0.8, 0.5)}), (1.25, 1.5, 1.7)),
    (replace(PAPER, name="strict users 50 %", classes={"strict": (0.5, 0.1), "relaxed": (0.5, 0.5)}), (1.25, 1.5, 1.7)),
    (replace(PAPER, name="three classes, 0.1, 0.25 and 1 s",
             classes={"strict": (0.1, 0.1), "middle": (0.4, 0.25), "relaxed": (0.5, 1.0)}), (1.25, 1.5, 1.7)),
    (replace(PAPER, name="arXiv lengths", lengths="arxiv"), (1.2, 1.5, 1.8)),
    (replace(PAPER, name="A100", card=Card(model="a100-llama-3-8b")), (2.0, 2.4, 2.8)),
    (replace(PAPER, name="H100", card=Card(model="h100-llama-3.1-8b")), (3.5, 4.5, 5.5)),
)  # fmt: skip

Task = tuple[Setting, Order, float, int]


def tasks(setting: Setting, orders: Iterable[Order], rates: Iterable[float], seeds: int) -> list[Task]:
    return [(setting, o, rate, seed) for rate in rates for o in orders for seed in range(1, seeds + 1)]


def measure(wanted: Sequence[Task]) -> list[Point]:
    with ProcessPoolExecutor(max_workers=2) as pool:
        return list(pool.map(point, *zip(*wanted, strict=True)))


def report(requests: int, seeds: int, grid: Sequence[float]) -> tuple[list[str], list[Point]]:
    paper = replace(PAPER, requests=requests)
    main = measure(tasks(paper, MAIN, grid, seeds))
    others = measure(tasks(paper, OTHERS, [rate for rate in (1.25, 1.5) if rate in grid], seeds))
    rates = [rate for rate in (1.25, 1.5) if rate in grid]
    base = [p for p in main if p.order == "fcfs" and p.rate in rates]
    overload = measure(tasks(paper, [*MAIN, OTHERS[0], OTHERS[1]], [SATURATING * 1.8], min(2, seeds)))
    lines = ["## The main orders", "", *tables.latencies(main, CLASSES)]
    lines += ["", "## Capacity", "", *tables.capacities(main, overload)]
    lines += ["", "## The other orders and SLAI's variants", "", *tables.latencies([*base, *others], CLASSES)]
    for setting, rates in SETTINGS:
        own = replace(setting, requests=max(100, requests * 5 // 8))
        points = measure(tasks(own, COMPARED, rates, min(2, seeds)))
        full = measure(tasks(own, COMPARED, [SATURATING * rates[-1]], 1))
        lines += ["", f"## {setting.name[0].upper()}{setting.name[1:]}", "", *tables.latencies(points, setting.classes)]
        lines += ["", tables.served(full)]
    return lines, main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.name} and {PLOT.name}")
    args = parser.parse_args()
    requests, seeds, grid = (args.requests // 10, 1, (1.25, 1.5)) if args.quick else (args.requests, args.seeds, GRID)
    lines, points = report(requests, seeds, grid)
    print("\n".join(lines), flush=True)
    if args.write:
        head = [
            "# The policies in the paper's setting, simulated",
            "",
            (__doc__ or "").strip(),
            "",
            "![plot](paper.svg)",
            "",
        ]
        REPORT.write_text("\n".join([*head, *lines, ""]))
        PLOT.write_text(tables.plot(points))


if __name__ == "__main__":
    main()
