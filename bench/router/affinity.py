"""Prefix hits of real vLLM prefill engines under three policies, beside what the router's rules predict of them.

    python -m bench.router.affinity [--requests 800] [--load 0.7] [--json FILE]

Two paced prefill engines and a decode engine on 127.0.0.1 (Mistral-7B on an RTX 4090, a tiny token for 4) and a router,
all fresh for each policy. Prompts: those of the Mooncake conversation trace with at most 15 blocks, in its order; a
block of 512 tokens is 128 tiny ones, the same wherever its hash is the same. Measured: `vllm:prefix_cache_hits` over
`vllm:prefix_cache_queries`, from the engines. Predicted: `prefill_pool` in virtual time, the same prompts and times.
"""

import argparse
import asyncio
import gzip
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import aiohttp

from bench.router.overhead import MANIFEST, wait_ready
from bench.router.prefill_pool import CHUNK_TOKENS, Ask, PrefillPool, prefill_s
from bench.router.routing import BLOCK_TOKENS, DATA, TWO_STEPS, hit_rate
from e2e.engine import local
from e2e.engine.options import Options
from llmservice_core.picking import Policy
from llmservice_core.step_models import step_model

GPU, SCALE = "rtx4090-mistral-7b", 4
ENGINES = 2
POLICIES = (Policy.RANDOM, Policy.SHORTEST_QUEUE, Policy.PREFIX_AFFINITY)
MOST_BLOCKS = 15
"""So that a prompt fits into the tiny model's context."""
TINY_BLOCK = BLOCK_TOKENS // SCALE
TINY_STEP = CHUNK_TOKENS // SCALE
KV_TOKENS = 65_536
"""Of each engine, 262,144 of the card's: between what an 80 GB GPU has room for and moved blocks (routing.py)."""
KV_BYTES_PER_TOKEN = 2048
VOCABULARY = (4, 1024)
READY_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    at_s: float
    tokens: list[int]
    """Of the tiny model."""
    hashes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Shares of prompt tokens that the prefix cache held. `failed`: requests without an answer."""

    policy: str
    requests: int
    measured: float
    predicted: float
    failed: int


def prompts(requests: int, load: float, seed: int = 0) -> list[Prompt]:
    """The beginning of the trace, at Poisson times that ask for `load` of the engines without any cache."""
    with gzip.open(DATA / "mooncake" / "conversation.jsonl.gz", "rt") as lines:
        rows = [row for row in map(json.loads, lines) if len(row["hash_ids"]) <= MOST_BLOCKS][:requests]
    model, draw, at_s, made = step_model(GPU), random.Random(seed), 0.0, []
    work_s = sum(prefill_s(model, row["input_length"]) for row in rows) / len(rows)
    for row in rows:
        at_s += draw.expovariate(load * ENGINES / work_s)
        tokens = [token for block in row["hash_ids"] for token in of_block(block)]
        length = max(1, row["input_length"] // SCALE)
        made.append(Prompt(at_s=at_s, tokens=tokens[:length], hashes=tuple(row["hash_ids"])))
    return made


def of_block(block: int) -> list[int]:
    """Tokens that only this block has."""
    draw = random.Random(block)
    return [draw.randrange(*VOCABULARY) for _ in range(TINY_BLOCK)]


def predicted(todo: Sequence[Prompt], policy: Policy) -> float:
    """In tokens of the card, as all of the simulator; only whole blocks can be found again."""
    whole = [
        Ask(
            arrival_s=p.at_s,
            prompt_tokens=len(p.tokens) * SCALE,
            blocks=tuple(h.to_bytes(8, "big") for h in p.hashes[: len(p.tokens) // TINY_BLOCK]),
            block_tokens=BLOCK_TOKENS,
        )
        for p in todo
    ]
    pool = PrefillPool(ENGINES, step_model(GPU), policy, TWO_STEPS, 0, KV_TOKENS * SCALE)
    return hit_rate(pool.run(whole))


@contextmanager
def pool() -> Iterator[list[local.Engine]]:
    """Two prefill engines and the decode engine, the last."""
    roles = ["prefill"] * ENGINES + ["decode"]
    ports = iter(local.free_ports(3 * len(roles)))
    wanted = [
        Options(
            role=role,
            port=next(ports),
            metrics_port=next(ports),
            nixl_port=next(ports),
            pace=f"{GPU},scale={SCALE}",
            max_batched_tokens=TINY_STEP,
            kv_bytes=KV_TOKENS * KV_BYTES_PER_TOKEN,
        )
        for role in roles
    ]
    with local.engines(*wanted) as started:
        yield started


@contextmanager
def router(engines: Sequence[local.Engine], policy: Policy) -> Iterator[str]:
    """As a process of its own; its URL."""
    port, metrics_port = local.free_ports(2)
    *prefill, decode = engines
    with TemporaryDirectory() as folder:
        manifest = Path(folder) / "service.yaml"
        manifest.write_text(json.dumps(MANIFEST))
        flags = ["--config", str(manifest), "--host", "127.0.0.1", "--port", str(port)]
        flags += ["--metrics-port", str(metrics_port), "--policy", policy.value, "--step-tokens", str(TINY_STEP)]
        flags += [part for engine in prefill for part in ("--prefill", engine.url)] + ["--decode", decode.url]
        process = subprocess.Popen([sys.executable, "-m", "llmservice_serving.router", *flags])
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


async def send(url: str, todo: Sequence[Prompt]) -> int:
    """How many failed."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600), connector=connector) as session:
        began_s, tasks = time.monotonic(), []
        for p in todo:
            await asyncio.sleep(max(0.0, began_s + p.at_s - time.monotonic()))
            tasks.append(asyncio.create_task(one(session, url, p)))
        return (await asyncio.gather(*tasks)).count(False)


async def one(session: aiohttp.ClientSession, url: str, p: Prompt) -> bool:
    body = {"model": "tiny", "prompt": p.tokens, "max_tokens": 2, "temperature": 0, "ignore_eos": True}
    try:
        async with session.post(f"{url}/v1/completions", json=body) as reply:
            await reply.read()
            return reply.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def counted(engines: Sequence[local.Engine], name: str) -> float:
    """A counter of vLLM's, over all of them."""
    total = 0.0
    for engine in engines:
        with urlopen(f"{engine.url}/metrics", timeout=10) as page:
            rows = [line for line in page.read().decode().splitlines() if line.startswith(f"{name}{{")]
        total += sum(float(line.rsplit(" ", 1)[1]) for line in rows)
    return total


def measured(todo: Sequence[Prompt], policy: Policy) -> Row:
    with pool() as engines, router(engines, policy) as url:
        asyncio.run(wait_ready(url, READY_S))
        failed = asyncio.run(send(url, todo))
        prefill = engines[:ENGINES]
        hits, queries = (counted(prefill, f"vllm:prefix_cache_{what}_total") for what in ("hits", "queries"))
    return Row(
        policy=policy.value,
        requests=len(todo),
        measured=round(hits / queries, 4),
        predicted=round(predicted(todo, policy), 4),
        failed=failed,
    )


def table(rows: Sequence[Row]) -> str:
    lines = ["| policy | requests | hits, engines' counters | hits, predicted | failed |", "|---" * 5 + "|"]
    lines += [f"| {r.policy} | {r.requests} | {r.measured:.1%} | {r.predicted:.1%} | {r.failed} |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.router.affinity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--requests", type=int, default=800)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    todo = prompts(args.requests, args.load)
    rows = [measured(todo, policy) for policy in POLICIES]
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
