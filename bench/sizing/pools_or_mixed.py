"""Prefill and decode pools against one mixed pool on the same GPUs: how much each can serve with its promises kept.

    python -m bench.sizing.pools_or_mixed [--gpus 2 4 8 32] [--tbt-ms 50 25] [--seconds 180] [--write]

Exact engines (docs/simulator.md), A100 step times, slai-plus, two classes (interactive: TTFT 1 s and the TBT of the
row; batch: 10 s, 0.5 s; half each), prompts cut at 4,096 tokens, fixed sizes, the router's queue as in production. For
each number of GPUs the highest rate, by bisection to 3 % of `work`, at which 99 % of the requests are good (first token
in time, at most 1 % of the own gaps late); for pools that of the best split. KV moves at 20.8 GB/s (between machines)
unless the row says otherwise. `work`: the rate that RAD's lambda d = g allows (chunks of 512 tokens, 128 decodes).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from bench.sizing.cases import CHAT, MOST_PROMPT, SERVICE, asked
from bench.sizing.rad_claims import Ideal, ideal
from e2e.load import read_trace
from llmservice_cli.service_file import load
from llmservice_core.model import Pool, PoolGoal, ServiceClass
from llmservice_core.step_models import step_model
from llmservice_sim.fleet import Fleet
from llmservice_sim.fleet_requests import Outcome
from llmservice_sim.fleet_settings import Link, Scenario
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import Static
from llmservice_sim.traces import read

RESULTS = Path(__file__).with_name("POOLS_OR_MIXED.md")
DATA = Path(__file__).parents[1] / "data"
POLICY, CARD = "slai-plus", "a100-llama-3-8b"
GOOD, CLOSE = 0.99, 0.03
SLOW = Link(latency_s=0.001, bytes_per_s=1.25e9)
"""Ten Gbit/s Ethernet."""
Lengths = Sequence[tuple[int, int]]


@cache
def lengths(name: str) -> Lengths:
    """Prompt and answer tokens: ShareGPT's, those of Azure's code, made-up long answers to short questions."""
    if name == "chat":
        return [(min(MOST_PROMPT, prompt), output) for prompt, output in read_trace()]
    if name == "code":
        rows = read(DATA / "azure-2023" / "code_0-40min.csv.gz")
        assert isinstance(rows, list)
        return [(min(MOST_PROMPT, r.prompt_tokens), r.output_tokens) for r in rows if r.output_tokens]
    draw = random.Random("reasoning")
    return [(draw.randrange(50, 400), draw.randrange(400, 2400)) for _ in range(2000)]


TBT_MS = 50.0


def classes(tbt_ms: float) -> tuple[ServiceClass, ...]:
    """TTFT: the strictest that prompts of 4,096 tokens can meet under load; alone they take 0.3 s."""
    interactive, batch = CHAT
    tight = replace(interactive.tbt, target_s=tbt_ms / 1000)
    return (
        replace(interactive, ttft=replace(interactive.ttft, target_s=1.0), tbt=tight),
        replace(batch, ttft=replace(batch.ttft, target_s=10.0)),
    )


LOADS = ("chat", "code", "reasoning")


def trace(load_name: str, rate_rps: float, seconds: float, seed: int, tbt_ms: float = TBT_MS) -> list[Arrival]:
    draw, now_s, made, users = random.Random(f"{seed}/{load_name}"), 0.0, [], classes(tbt_ms)
    while (now_s := now_s + draw.expovariate(rate_rps)) < seconds:
        (prompt, output), c = draw.choice(lengths(load_name)), draw.choice(users)
        made.append(asked(now_s, prompt, output, c))
    return made


def scenario(sizes: Mapping[Pool, int], link: Link, tbt_ms: float = TBT_MS) -> Scenario:
    service = load(str(SERVICE), "a100", POLICY)
    pools = tuple(PoolGoal(pool=p, min_replicas=n, max_replicas=n, gpus_per_replica=1) for p, n in sizes.items())
    goal = replace(service.goal, classes=classes(tbt_ms), pools=pools, gpu_budget=None)
    made = Scenario(goal=goal, replica=service.replica, policy=POLICY, initial=sizes, link=link)
    return made.with_router_queue()


def good_share(setting: Scenario, sizes: Mapping[Pool, int], arrivals: Sequence[Arrival]) -> float:
    result = Fleet(setting, Static(sizes)).run(arrivals)
    judged = [r for r in result.requests if r.outcome is not Outcome.REFUSED]
    return sum(r.is_good for r in judged) / len(judged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The highest rate that is served well, between nothing and `most_rps`."""

    load_name: str
    seconds: float
    most_rps: float
    link: Link
    tbt_ms: float

    def best_rps(self, sizes: Mapping[Pool, int]) -> float:
        return highest(lambda rate: self._keeps(sizes, rate), self.most_rps)

    def _keeps(self, sizes: Mapping[Pool, int], rate: float) -> bool:
        arrivals = trace(self.load_name, rate, self.seconds, 0, self.tbt_ms)
        return good_share(scenario(sizes, self.link, self.tbt_ms), sizes, arrivals) >= GOOD


def highest(keeps: Callable[[float], bool], most: float) -> float:
    low, high = 0.0, most
    while high - low > CLOSE * most:
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def work(load_name: str) -> tuple[float, Ideal]:
    """Seconds that a mean request needs of one GPU, and of what they consist."""
    sample = trace(load_name, 100.0, 30.0, 1)
    seconds = ideal(step_model(CARD), sample)
    return seconds.total_s / len(sample), seconds


def splits(gpus: int, share: float, most: int) -> list[dict[Pool, int]]:
    """Those nearest to the prefill share that RAD's work says."""
    near = sorted(range(1, gpus), key=lambda n: abs(n - share * gpus))[:most]
    return [{Pool.PREFILL: n, Pool.DECODE: gpus - n} for n in sorted(near)]


def row(load_name: str, gpus: int, tbt_ms: float, seconds: float, link: Link, note: str = "") -> str:
    request_s, parts = work(load_name)
    most_rps = gpus / request_s
    search = Search(load_name=load_name, seconds=seconds, most_rps=1.1 * most_rps, link=link, tbt_ms=tbt_ms)
    mixed = search.best_rps({Pool.MIXED: gpus})
    share = parts.prompts_s / parts.total_s
    found = [(search.best_rps(sizes), sizes[Pool.PREFILL]) for sizes in splits(gpus, share, 3 if gpus < 32 else 2)]
    best, prefill = max(found)
    ratio = f"{best / mixed:.2f}" if mixed else "no mixed rate"
    return (
        f"| {load_name}{note} | {tbt_ms:g} | {gpus} | {most_rps:.1f} | {mixed:.1f} | {best:.1f} |"
        f" {prefill} + {gpus - prefill} | {share:.2f} | {ratio} |"
    )


COLUMNS = (
    "TBT, ms",
    "GPUs",
    "work, req/s",
    "mixed, req/s",
    "best pools, req/s",
    "prefill + decode",
    "prefill work",
    "pools / mixed",
)
HEAD = f"| load | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[2, 4, 8, 32])
    parser.add_argument("--tbt-ms", type=float, nargs="+", default=[50.0, 25.0], help="of the interactive class")
    parser.add_argument("--loads", nargs="+", default=LOADS, choices=LOADS)
    parser.add_argument("--seconds", type=float, default=180.0, help="of virtual load (32 GPUs: a third)")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {RESULTS.name}")
    args = parser.parse_args()
    lines = [HEAD]
    print(HEAD, flush=True)

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)
        if args.write:
            RESULTS.write_text("\n".join([f"# Pools or one mixed pool\n\n{(__doc__ or '').strip()}\n", *lines, ""]))

    for tbt_ms in args.tbt_ms:
        for name in args.loads:
            for gpus in args.gpus:
                tell(row(name, gpus, tbt_ms, args.seconds if gpus < 32 else args.seconds / 3, Link()))
    for name in args.loads:
        tell(row(name, 8, args.tbt_ms[0], args.seconds, SLOW, ", KV over 10 Gbit/s"))


if __name__ == "__main__":
    main()
