"""What the planner takes for granted of router and engines, and what each is worth: it is left out and measured.

    python -m bench.sizing.assumptions [--seconds 300] [--write]

Exact engines, A100 step times, ShareGPT lengths cut at 4,096 tokens, two classes (interactive: TTFT 1 s, TBT 50 ms;
batch: 10 s, 0.5 s; half each), fixed pools of 5 prefill and 5 decode replicas. For each row the share of good
requests at the rate that these pools just hold and 10 % above it, and the highest rate at which 99 % are good: the
ratio of these rates is what a property saves in GPUs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.sizing.pools_or_mixed import GOOD, good_share, highest, scenario, trace, work
from llmservice_core.model import Pool
from llmservice_core.picking import Policy
from llmservice_sim.fleet_settings import Link, Scenario

RESULTS = Path(__file__).with_name("ASSUMPTIONS.md")
SIZES = {Pool.PREFILL: 5, Pool.DECODE: 5}
LOAD = "chat"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "all as in production": {},
    "late prompts keep their place": {"policy_settings": {"late_last": False}},
    "no strict class first": {"policy_settings": {"strict_first": False}},
    "neither": {"policy_settings": {"strict_first": False, "late_last": False}},
    "power of two instead of the shortest queue": {"routing": Policy.POWER_OF_TWO},
    "uniform random instead of the shortest queue": {"routing": Policy.RANDOM},
    "no queue in the router": {"room": None},
    "vLLM's own order": {"policy": "fcfs"},
    "slai-published": {"policy": "slai-published"},
}


def variant(changes: Mapping[str, Any]) -> Scenario:
    plain = scenario(SIZES, Link())
    if "room" in changes:
        return replace(plain, room=Scenario(goal=plain.goal, replica=plain.replica, policy=plain.policy).room)
    return replace(plain, **changes)


def good(setting: Scenario, rate_rps: float, seconds: float) -> float:
    return good_share(setting, SIZES, trace(LOAD, rate_rps, seconds, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="of virtual load")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {RESULTS.name}")
    args = parser.parse_args()
    most = 1.1 * sum(SIZES.values()) / work(LOAD)[0]

    def best(name: str) -> float:
        setting = variant(VARIANTS[name])
        return highest(lambda rate: good(setting, rate, args.seconds) >= GOOD, most)

    first, *others = VARIANTS
    rate = best(first)
    lines = [
        f"| left out | good at {rate:.1f} req/s, % | at {1.1 * rate:.1f}, % | 99 % good up to, req/s | ratio |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in (first, *others):
        setting, held = variant(VARIANTS[name]), rate if name == first else best(name)
        shares = [f"{100 * good(setting, r, args.seconds):.2f}" for r in (rate, 1.1 * rate)]
        lines.append(f"| {name} | {' | '.join(shares)} | {held:.1f} | {held / rate:.2f} |")
        print("\n".join(lines) if name == first else lines[-1], flush=True)
    if args.write:
        RESULTS.write_text("\n".join([f"# What is taken for granted\n\n{(__doc__ or '').strip()}\n", *lines, ""]))


if __name__ == "__main__":
    main()
