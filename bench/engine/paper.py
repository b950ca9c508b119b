"""SLAI in the paper's setting, simulated step by step: what it gains over Sarathi's order, and at which rate it ends.

    python -m bench.engine.paper [--rates 1.25 1.5] [--requests 4000] [--seeds 3] [--slower 1] [--noise 0] [--write]

Mistral-7B on the step times of bench/data/step-times, ShareGPT lengths, Poisson arrivals, 5 % strict users (TBT 0.1 s)
and 95 % relaxed (0.5 s), 512 tokens per step (slai-plus chooses, up to 768), 128 requests at once, 14,733 KV blocks of
16. `fcfs` is vLLM's own order, running requests first and prompts in chunks: Sarathi-Serve's. `slai-published` is SLAI
to the letter, `slai` with the mean of ordering.BatchMean, `slai-plus` the policy of core/bulk.py. All orders see the
same requests. Every run ends when its last request does, so that no slow one is left out; the first 5 % of the requests
are not counted. --slower 1.15 --noise 0.1: steps last longer than slai-plus believes, and vary. --write keeps the table
and one for that card at two rates.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from e2e.load import read_trace
from llmservice_core.bulk import Bulk
from llmservice_core.latency import Work
from llmservice_core.policies import make_policy
from llmservice_core.step_models import step_model
from llmservice_sim.engine import Engine, EngineLimits
from llmservice_sim.jobs import Arrival
from llmservice_sim.run import run
from llmservice_sim.summary import figures

REPORT = Path(__file__).with_name("PAPER.md")
PLUS = "slai-plus"
ORDERS = ("fcfs", "slai", "slai-published", PLUS)
CLASSES = {"strict": (0.05, 0.1), "relaxed": (0.95, 0.5)}
"""Share of the requests, TBT target in seconds."""
MODEL = "rtx4090-mistral-7b"
LIMITS = EngineLimits(max_batched_tokens=512, max_seqs=128, kv_blocks=14_733)
MEDIAN_TARGET_S = 0.5
NOT_COUNTED = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One order at one rate with one seed; seconds."""

    order: str
    rate: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    strict_tbt_p99_s: float
    relaxed_tbt_p99_s: float

    @property
    def meets(self) -> bool:
        """The paper's criterion: median TTFT, and the tail of TBT of both classes."""
        tbt = {"strict": self.strict_tbt_p99_s, "relaxed": self.relaxed_tbt_p99_s}
        return self.ttft_p50_s < MEDIAN_TARGET_S and all(tbt[name] <= target for name, (_, target) in CLASSES.items())


def trace(rate: float, requests: int, seed: int) -> list[Arrival]:
    rng, rows, now_s, arrivals = random.Random(seed), read_trace(), 0.0, []
    names, shares = list(CLASSES), [share for share, _ in CLASSES.values()]
    for _ in range(requests):
        now_s += rng.expovariate(rate)
        prompt, output = rng.choice(rows)
        (name,) = rng.choices(names, shares)
        arrivals.append(
            Arrival(
                time_s=now_s,
                prompt_tokens=prompt,
                output_tokens=output,
                service_class=name,
                tbt_s=CLASSES[name][1],
            )
        )
    return arrivals


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The steps as they really are: `slower` times the model, with lognormal noise of that relative size."""

    slower: float = 1.0
    noise: float = 0.0

    def clock(self, seed: int) -> Callable[[Work], float]:
        rng, model = random.Random(seed), step_model(MODEL)
        return lambda w: model.work_s(w) * self.slower * math.exp(rng.gauss(0.0, self.noise))


HARSH, HARSH_RATES = Card(slower=1.15, noise=0.1), (1.25, 1.5)
"""What a policy that predicts step times must stand."""


def engine_of(order: str) -> Engine:
    limits = replace(LIMITS, max_batched_tokens=Bulk().widest) if order == PLUS else LIMITS
    return Engine(limits, make_policy(order), step_model(MODEL).work_s)


def point(order: str, rate: float, requests: int, seed: int, card: Card) -> Point:
    jobs = run(trace(rate, requests, seed), engine_of(order), card.clock(seed)).jobs
    counted = jobs[int(NOT_COUNTED * len(jobs)) :]
    everybody = figures(counted)
    tbt = {name: figures(j for j in counted if j.asked.service_class == name).tbt_p99_s or 0.0 for name in CLASSES}
    return Point(
        order=order,
        rate=rate,
        ttft_p50_s=everybody.ttft_p50_s or 0.0,
        ttft_p95_s=everybody.ttft_p95_s or 0.0,
        ttft_p99_s=everybody.ttft_p99_s or 0.0,
        strict_tbt_p99_s=tbt["strict"],
        relaxed_tbt_p99_s=tbt["relaxed"],
    )


def table(points: Sequence[Point]) -> list[str]:
    """Means over the seeds; in brackets the spread of the median between them."""
    lines = [
        "| req/s | order | TTFT p50, s | against fcfs | p95 | p99 | TBT p99 strict, ms | relaxed | criterion met |"
    ]
    lines.append("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for rate in sorted({p.rate for p in points}):
        base = statistics.mean(p.ttft_p50_s for p in points if (p.rate, p.order) == (rate, "fcfs"))
        at_rate = {order: [p for p in points if (p.rate, p.order) == (rate, order)] for order in ORDERS}
        lines += [_row(order, rate, seeds, base) for order, seeds in at_rate.items()]
    return lines


def _row(order: str, rate: float, seeds: Sequence[Point], base_s: float) -> str:
    def mean(name: str) -> float:
        return statistics.mean(getattr(p, name) for p in seeds)

    medians = [p.ttft_p50_s for p in seeds]
    spread = f"{mean('ttft_p50_s'):.3f} ({min(medians):.3f} to {max(medians):.3f})"
    change = f"{mean('ttft_p50_s') / base_s - 1:+.0%}"
    latencies = f"{mean('ttft_p95_s'):.2f} | {mean('ttft_p99_s'):.2f}"
    gaps = f"{1e3 * mean('strict_tbt_p99_s'):.0f} | {1e3 * mean('relaxed_tbt_p99_s'):.0f}"
    met = f"{sum(p.meets for p in seeds)} of {len(seeds)}"
    return f"| {rate:g} | {order} | {spread} | {change} | {latencies} | {gaps} | {met} |"


def measure(rates: Iterable[float], requests: int, seeds: int, card: Card) -> list[Point]:
    jobs = [(order, rate, requests, seed, card) for rate in rates for order in ORDERS for seed in range(1, seeds + 1)]
    with ProcessPoolExecutor(max_workers=2) as pool:
        return list(pool.map(point, *zip(*jobs, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 1.25, 1.3, 1.4, 1.5, 1.6, 1.7])
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slower", type=float, default=1.0)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.name}")
    args = parser.parse_args()
    lines = table(measure(args.rates, args.requests, args.seeds, Card(slower=args.slower, noise=args.noise)))
    print("\n".join(lines), flush=True)
    if args.write:
        harsh = table(measure(HARSH_RATES, args.requests, args.seeds, HARSH))
        head = ["# SLAI in the paper's setting, simulated", "", (__doc__ or "").strip(), ""]
        second = f"Steps {HARSH.slower:g} times as long as slai-plus believes at first, with {HARSH.noise:.0%} noise:"
        REPORT.write_text("\n".join([*head, *lines, "", second, "", *harsh, ""]))


if __name__ == "__main__":
    main()
