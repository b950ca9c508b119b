"""How the choice of an engine shows in TTFT and prefix hits: the router's own rules, in virtual time.

    python -m bench.router.routing [--engines 4] [--seeds 3] [--gpu h100-llama-3.1-8b] [--json FILE]

Two lists: ShareGPT (lengths only, Poisson arrivals) and Mooncake (lengths, prefix hashes and arrivals of a real chat
service; ticks of 3 s spread over themselves, the clock stretched to the load wanted). Load is what the pool would have
to do without any cache, as a share of what it can. Figures are medians over the seeds. Same arguments, same bytes.
"""

import argparse
import csv
import gzip
import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from bench.router.prefill_pool import CHUNK_TOKENS, Ask, PrefillPool, Served, percentile, prefill_s
from llmservice_core.latency import StepModel
from llmservice_core.picking import UNBOUNDED, Policy, Room
from llmservice_core.step_models import names, step_model

DATA = Path(__file__).parents[1] / "data"
TICK_S = 3.0
BLOCK_TOKENS = 512
CACHES = {"ShareGPT": (0,), "Mooncake": (400_000, 4_000_000)}
"""Tokens of KV that an engine keeps: beside an 8B model (131,072 bytes per token) an 80 GB GPU has room for 400,000;
ten times as many stand for blocks that are moved to 512 GB of host memory and come back for nothing."""
TWO_STEPS = Room(tokens=2.0 * CHUNK_TOKENS)
SHAREGPT_REQUESTS = 3000
LOADS = (0.7, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    data: str
    load: float
    cache_tokens: int
    waits_in: str
    policy: str
    ttft_p50_s: float
    ttft_p95_s: float
    hit_rate: float


def sharegpt(model: StepModel, engines: int, load: float, seed: int) -> list[Ask]:
    rows = list(csv.DictReader((DATA / "sharegpt" / "lengths.csv").open()))[:SHAREGPT_REQUESTS]
    lengths = [int(r["num_prefill_tokens"]) for r in rows]
    work_s = sum(prefill_s(model, n) for n in lengths) / len(lengths)
    rng, now_s, asks = random.Random(seed), 0.0, []
    for tokens in lengths:
        now_s += rng.expovariate(load * engines / work_s)
        asks.append(Ask(arrival_s=now_s, prompt_tokens=tokens))
    return asks


def mooncake(model: StepModel, engines: int, load: float, seed: int) -> list[Ask]:
    rng = random.Random(seed)
    with gzip.open(DATA / "mooncake" / "conversation.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    asks = [
        Ask(
            arrival_s=r["timestamp"] / 1000 + TICK_S * rng.random(),
            prompt_tokens=r["input_length"],
            blocks=tuple(h.to_bytes(8, "big") for h in r["hash_ids"]),
            block_tokens=BLOCK_TOKENS,
            session=session,
        )
        for r, session in zip(rows, sessions(rows), strict=True)
    ]
    work_s = sum(prefill_s(model, a.prompt_tokens) for a in asks)
    stretch = work_s / (load * engines * max(a.arrival_s for a in asks))
    return [replace(a, arrival_s=a.arrival_s * stretch) for a in asks]


def sessions(rows: list[dict[str, list[int]]]) -> Iterator[str]:
    """The trace names none: a prompt continues the conversation whose blocks it repeats, its last block excepted and
    the first one, which all share."""
    owner: dict[int, str] = {}
    for number, row in enumerate(rows):
        ids = row["hash_ids"]
        found = next((owner[h] for h in reversed(ids[1:-1]) if h in owner), str(number))
        owner.update((h, found) for h in ids[1:] if h not in owner)
        yield found


WORKLOADS = {"ShareGPT": sharegpt, "Mooncake": mooncake}


Case = tuple[str, float, int, Room, Policy]


def measured(case: Case, gpu: str, engines: int, seeds: int) -> Row:
    model, (data, load, cache, room, policy) = step_model(gpu), case
    most = cache // BLOCK_TOKENS
    runs = [
        PrefillPool(engines, model, policy, room, seed, cache, most).run(WORKLOADS[data](model, engines, load, seed))
        for seed in range(seeds)
    ]
    return Row(
        data=data,
        load=load,
        cache_tokens=cache,
        waits_in="engines" if room is UNBOUNDED else "router",
        policy=policy.value,
        ttft_p50_s=statistics.median(percentile([s.ttft_s for s in run], 50) for run in runs),
        ttft_p95_s=statistics.median(percentile([s.ttft_s for s in run], 95) for run in runs),
        hit_rate=statistics.median(map(hit_rate, runs)),
    )


def hit_rate(run: list[Served]) -> float:
    """Tokens found in a cache over all prompt tokens."""
    return sum(s.cached_tokens for s in run) / sum(s.ask.prompt_tokens for s in run)


def cases() -> Iterator[Case]:
    """Without hashes there is nothing to have an affinity to."""
    for data in WORKLOADS:
        for cache, load, room, policy in product(CACHES[data], LOADS, (UNBOUNDED, TWO_STEPS), Policy):
            if cache or policy not in (Policy.PREFIX_AFFINITY, Policy.SESSION):
                yield data, load, cache, room, policy


def table(rows: list[Row]) -> str:
    head = "| data | load | KV kept | prompts wait in | policy | TTFT p50 s | TTFT p95 s | prefix hits |"
    lines = [head, "|---" * 8 + "|"]
    for r in rows:
        kept, hits = (f"{r.cache_tokens:,}", f"{r.hit_rate:.1%}") if r.cache_tokens else ("-", "-")
        where = f"| {r.data} | {r.load} | {kept} | {r.waits_in} | {r.policy} "
        lines.append(f"{where}| {r.ttft_p50_s:.3f} | {r.ttft_p95_s:.2f} | {hits} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gpu", choices=names(), default="h100-llama-3.1-8b")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [measured(case, args.gpu, args.engines, args.seeds) for case in cases()]
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
