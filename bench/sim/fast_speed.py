"""How many times faster than real time the fast fleet runs, in CPU time. Prints one line for each load.

    python -m bench.sim.fast_speed

examples/chat.yaml on A100 step times: ServeGen's m-large day 7 from midnight under law rad, deepseek-r1 at fixed sizes.
"""

from __future__ import annotations

import time
from pathlib import Path

from llmservice_cli.service_file import load
from llmservice_core.model import Pool
from llmservice_sim.fast_fleet import FastFleet
from llmservice_sim.fleet_settings import Scenario
from llmservice_sim.laws import law_of
from llmservice_sim.workload import Cut, arrivals, rows_of

ROOT = Path(__file__).parents[2]
LOADS = (
    ("m-large", 604_800.0, 6.0, 3600.0, "rad", (1, 1)),
    ("m-large", 604_800.0, 12.0, 1800.0, "rad", (2, 1)),
    ("m-large", 604_800.0, 25.0, 1800.0, "rad", (4, 2)),
    ("deepseek-r1", 20_000.0, 2.0, 1800.0, "static", (1, 2)),
)
"""Model, start, requests/s, seconds, law, prefill and decode replicas at the start."""


def main() -> None:
    service = load(str(ROOT / "examples" / "chat.yaml"), "a100", None)
    for model, start_s, rate, seconds, law, (prefill, decode) in LOADS:
        cut = Cut(start_s=start_s, seconds=seconds, rate_rps=rate)
        path = ROOT / "bench" / "data" / "servegen" / f"{model}_windows.csv.gz"
        trace = arrivals(rows_of(path, cut, 0), service.goal.classes, {}, 0)
        sizes = {Pool.PREFILL: prefill, Pool.DECODE: decode}
        scenario = Scenario(goal=service.goal, replica=service.replica, policy=service.policy, initial=sizes)
        began_s = time.process_time()
        result = FastFleet(scenario, law_of(law, service.goal, sizes, {})).run(trace)
        spent_s = time.process_time() - began_s
        print(f"{model} at {rate:g} req/s: {result.end_s / spent_s:.0f} times real time, {len(trace)} requests")


if __name__ == "__main__":
    main()
