"""Stock order against SLAI and slai-plus with a real model that computes on this machine's CPU. Nothing is paced.

    python -m bench.engine.real_compute [--minutes 4] [--load 0.9] [--write]

A check that pacing does not flatter: SmolLM2-135M in float32 on one core, ShareGPT lengths at an eighth, 16 sequences,
64 tokens a step (slai-plus takes up to 96 where targets allow; its widths are an eighth, too). What the engine can do
is measured first: a burst under the stock order gives requests per second and the time of a full step. Targets stand to
that step as in the paper: strict 0.93 of it, relaxed five times that. The policies run one after the other, for they
would share the cores; each gets the same requests at the same moments. Ratios, not times, are the result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.engine.client import RELAXED, STRICT, Request, arrivals, exported, figures, run_load, table
from e2e.engine import local, models
from e2e.load import read_trace
from llmservice_core import metric_names as names
from llmservice_core.bulk import Bulk

RESULTS = Path(__file__).with_name("REAL_COMPUTE.md")
POLICIES = ("fcfs", "slai", "slai-plus")
SCALE, SEQUENCES, BUDGET, MODEL_LEN = 8, 16, 64, 1_152
KV_TOKENS, KV_BYTES_PER_TOKEN = 8_192, 2 * 30 * 3 * 64 * 4  # keys and values, layers, heads, width, float32
STRICT_OF_A_FULL_STEP, RELAXED_OF_STRICT = 0.93, 5.0
BURST = 80
WARM_UP_SHARE = 0.1


def options(policy: str) -> local.Options:
    port, metrics_port = local.free_ports(2)
    budget = Bulk().widest // SCALE if policy == "slai-plus" else BUDGET
    return local.Options(
        port=port, metrics_port=metrics_port, policy=policy, service=f"bench/{policy}", model=models.SMOLLM,
        max_batched_tokens=budget, max_seqs=SEQUENCES, max_model_len=MODEL_LEN, kv_bytes=KV_TOKENS * KV_BYTES_PER_TOKEN,
        args=("--no-enable-prefix-caching", *(scaled() if policy == "slai-plus" else ())),
    )  # fmt: skip


def scaled() -> tuple[str, str]:
    """slai-plus with its widths at an eighth, as prompts, budget and sequences are."""
    bulk = Bulk()
    widths = {name: getattr(bulk, name) // SCALE for name in ("narrowest", "widest", "tile", "long_tokens")}
    return "--additional-config", json.dumps({"llmservice": widths})


def calibrate(trace: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Requests per second and seconds of a step, of the stock order with more waiting than it can take."""
    burst = [Request(0.0, r.prompt, r.output, RELAXED) for r in arrivals(trace, 1.0, 2 * BURST, SCALE, seed=99)[:BURST]]
    loose = {STRICT: 60.0, RELAXED: 60.0}

    async def run(engine: local.Engine) -> tuple[float, float]:
        await run_load({"warm": engine.url}, burst[:4], loose)
        before = await exported(engine.metrics_url)
        seen = (await run_load({"all": engine.url}, burst, loose))["all"]
        after = await exported(engine.metrics_url)
        ends = sorted(s.end_s or 0.0 for s in seen)
        early, late = len(ends) // 5, 4 * len(ends) // 5
        steps, seconds = (after[n] - before[n] for n in (names.STEPS, names.STEP_SECONDS))
        return (late - early) / (ends[late] - ends[early]), seconds / steps

    with local.engines(options("fcfs")) as (engine,):
        return asyncio.run(run(engine))


def one_policy(policy: str, requests: Sequence[Request], warm_s: float, tbt_s: Mapping[str, float]) -> dict[str, float]:
    async def run(engine: local.Engine) -> dict[str, float]:
        await run_load({policy: engine.url}, [Request(0.0, 40, 10, RELAXED)] * 4, tbt_s)
        before = await exported(engine.metrics_url)
        seen = (await run_load({policy: engine.url}, requests, tbt_s))[policy]
        after = await exported(engine.metrics_url)
        return figures(seen, {name: value - before.get(name, 0.0) for name, value in after.items()}, warm_s, tbt_s)

    with local.engines(options(policy)) as (engine,):
        return asyncio.run(run(engine))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--load", type=float, default=0.9, help="share of the burst's requests per second")
    parser.add_argument("--write", action="store_true", help="keep the table in bench/engine/REAL_COMPUTE.md")
    args = parser.parse_args()
    trace = read_trace()
    capacity_rps, step_s = calibrate(trace)
    strict_s = STRICT_OF_A_FULL_STEP * step_s
    tbt_s = {STRICT: strict_s, RELAXED: RELAXED_OF_STRICT * strict_s}
    requests = arrivals(trace, args.load * capacity_rps, 60 * args.minutes, SCALE)
    head = (
        f"Burst: {capacity_rps:.2f} requests/s, {1000 * step_s:.0f} ms a step. Load {args.load:g} for"
        f" {args.minutes:g} min: {len(requests)} requests to each; the first tenth is not counted."
    )
    print(head, flush=True)
    text = table([{p: one_policy(p, requests, WARM_UP_SHARE * 60 * args.minutes, tbt_s) for p in POLICIES}])
    print(text)
    if args.write:
        command = f"`python -m bench.engine.real_compute --minutes {args.minutes:g} --load {args.load:g} --write`"
        RESULTS.write_text(f"# A real model on a CPU, not paced\n\n{command}\n\n{head}\n\n{text}\n")


if __name__ == "__main__":
    main()
