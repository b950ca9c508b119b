"""What flips between the pools are worth where a start takes 300 s: a mix that swings between prompts and answers.

    python -m bench.sizing.flips

Simulated (fast fidelity), A100, policy slai. 4 requests/s for 40 minutes; over each 20 minutes the mix goes from long
prompts with short answers (3,000 and 100 tokens) to the opposite (400 and 1,200) and back. Made for this question: on
the production loads of `evidence`, both pools grow and shrink together and no flip was planned.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from bench.sizing.cases import Case
from bench.sizing.units import row_of
from llmservice_core.model import Pool
from llmservice_sim.fast_fleet import FastFleet
from llmservice_sim.laws import law_of

RATE_RPS, PERIOD_S, SECONDS = 4.0, 1200.0, 2400.0
PROMPTS, ANSWERS = (3000, 100), (400, 1200)
LAWS = ("rad", "rad-flips")


def swing(seconds: float, seed: int) -> list[tuple[float, int, int]]:
    """Poisson arrivals, each of one kind or the other with a chance that goes from 0 to 1 and back."""
    rng, now_s, found = random.Random(f"{seed}/swing"), 0.0, []
    while (now_s := now_s + rng.expovariate(RATE_RPS)) < seconds:
        answers = rng.random() < (1.0 - math.cos(2.0 * math.pi * now_s / PERIOD_S)) / 2.0
        found.append((now_s, *(ANSWERS if answers else PROMPTS)))
    return found


def main() -> None:
    case = Case(name="swing of the mix", rows=swing, full_s=SECONDS, quick_s=SECONDS, start_up_s=300.0)
    scenario = replace(case.scenario(), initial={Pool.PREFILL: 3, Pool.DECODE: 1})
    trace = case.trace(SECONDS)
    for name in LAWS:
        result = FastFleet(scenario, law_of(name, scenario.goal, scenario.initial, {})).run(trace)
        row = row_of(name, result, None)
        shares = ", ".join(f"{n} TTFT {ttft:.2f} %, TBT {tbt:.2f} %" for n, ttft, tbt in row.attained if ttft and tbt)
        print(f"{name}: good {row.good:.2f} %, worst 10 min {row.worst:.1f} %, {row.gpu_hours:.2f} GPU-hours; {shares}")


if __name__ == "__main__":
    main()
