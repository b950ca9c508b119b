"""How many times faster than real time the exact fleet runs, and where its time goes.

    python -m bench.sim.speed [--rates 20 40 60] [--write]

examples/chat.yaml on A100 step times with 5 prefill and 5 decode replicas that stay, under the package's Azure sample
scaled to a rate that loads them (both promises of both classes are kept at 40 req/s). CPU time, not wall time: other
work on the machine does not count. --write keeps the table in SPEED.md.
"""

from __future__ import annotations

import argparse
import cProfile
import platform
import pstats
import time
from pathlib import Path

from llmservice_cli.service_file import load
from llmservice_core.model import Pool
from llmservice_sim.fleet import Fleet
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.fleet_settings import Scenario
from llmservice_sim.laws import Static
from llmservice_sim.workload import Cut, arrivals, rows_of, sample_path

REPORT = Path(__file__).with_name("SPEED.md")
SERVICE = Path(__file__).parents[2] / "examples" / "chat.yaml"
SIZES = {Pool.PREFILL: 5, Pool.DECODE: 5}
ROWS = 10


def once(rate: float) -> FleetResult:
    simulated = load(str(SERVICE), "a100", None)
    trace = arrivals(rows_of(sample_path(), Cut(rate_rps=rate), 0), simulated.goal.classes, {}, 0)
    scenario = Scenario(goal=simulated.goal, replica=simulated.replica, policy=simulated.policy, initial=SIZES)
    return Fleet(scenario, Static(SIZES)).run(trace)


def row(rate: float) -> str:
    began_s = time.process_time()
    result = once(rate)
    spent_s = time.process_time() - began_s
    tokens = sum(c.tokens for c in result.classes)
    kept = min(share for c in result.classes for share in (c.ttft_share, c.tbt_share) if share is not None)
    return (
        f"| {rate:g} | {result.end_s:.0f} | {spent_s:.1f} | **{result.end_s / spent_s:.0f}** | {result.steps:,}"
        f" | {1e6 * spent_s / result.steps:.0f} | {tokens:,} | {1e6 * spent_s / tokens:.1f} | {100 * kept:.1f} |"
    )


def profile(rate: float) -> list[str]:
    """Shares of the functions in which most time is spent, without what they call."""
    profiler = cProfile.Profile()
    profiler.runcall(once, rate)
    stats = pstats.Stats(profiler)
    timed = sorted(((v[2], k) for k, v in stats.stats.items()), reverse=True)  # type: ignore[attr-defined]
    total = sum(seconds for seconds, _ in timed)
    return [f"| {Path(f).name}:{name} | {seconds / total:.1%} |" for seconds, (f, _, name) in timed[:ROWS]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[20.0, 40.0, 60.0])
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.name}")
    args = parser.parse_args()
    lines = [
        "| req/s | virtual s | CPU s | x real time | engine steps | us a step | tokens | us a token | least kept % |"
    ]
    lines += ["| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", *(row(rate) for rate in args.rates)]
    shares = ["| function (its own time, profiled at 40 req/s) | share |", "| --- | ---: |", *profile(40.0)]
    print("\n".join([*lines, "", *shares]))
    if args.write:
        machine = f"Python {platform.python_version()}, one process on {platform.machine()}."
        head = ["# Speed of the exact fleet, 10 replicas", "", (__doc__ or "").strip(), "", machine, ""]
        REPORT.write_text("\n".join([*head, *lines, "", *shares, ""]))


if __name__ == "__main__":
    main()
