"""Stock order (fcfs) against SLAI and slai-plus on mixed engines, paced as the card of SLAI's paper.

    python -m bench.engine.compare [--minutes 5] [--load 0.7 0.9] [--seeds 3] [--scale 4] [--policies ...] [--write]

Setup of the paper: Mistral-7B, ShareGPT lengths, Poisson arrivals, 5 % strict users (TBT 0.1 s), 95 % relaxed (0.5 s),
token budget 512 (slai-plus chooses, up to 768), 128 sequences, 235,728 tokens of KV cache. All engines get the same
requests at the same moments, so the ratios are paired; the table has the median of the seeds and the spread of the
ratios. Paced, not computed: see llmservice_serving.pace; the share of overruns is printed beside the numbers.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from bench.engine.client import RELAXED, STRICT, Request, arrivals, exported, figures, run_load, table
from e2e.engine import local
from e2e.load import read_trace
from llmservice_core.bulk import Bulk
from llmservice_core.policies import NAMES
from llmservice_core.step_models import step_model

PLUS = "slai-plus"
RESULTS = Path(__file__).with_name("RESULTS.md")
MODEL = "rtx4090-mistral-7b"
BUDGET, SEQUENCES, KV_TOKENS, MODEL_LEN = 512, 128, 235_728, 9_216
KV_BYTES_PER_TOKEN = 2048  # of the tiny model in float32
TBT_S = {STRICT: 0.1, RELAXED: 0.5}
POLICIES = ("fcfs", "slai", PLUS)
WARM_UP_SHARE = 0.1
Run = dict[str, dict[str, float]]


def capacity_rps(trace: Sequence[tuple[int, int]]) -> float:
    """Requests per second that steps of a full token budget keep up with, prompts and decodes mixed as they come."""
    prompt, output = (sum(column) / len(trace) for column in zip(*trace, strict=True))
    kv = sum(o * (p + o / 2) for p, o in trace) / sum(o for _, o in trace)
    cached = sum(p * p / 2 for p, _ in trace) / sum(p for p, _ in trace)
    width = BUDGET * output / (prompt + output)
    step_s = step_model(MODEL).step_s([(round(BUDGET - width), round(cached))], [round(kv)] * round(width))
    return width / output / step_s


def options(policy: str, scale: int, ports: Sequence[int]) -> local.Options:
    budget = Bulk().widest if policy == PLUS else BUDGET
    return local.Options(
        port=ports[0], metrics_port=ports[1], policy=policy, pace=f"{MODEL},scale={scale}", service=f"bench/{policy}",
        max_batched_tokens=budget // scale, max_seqs=SEQUENCES // scale, max_model_len=MODEL_LEN // scale,
        kv_bytes=KV_TOKENS // scale**2 * KV_BYTES_PER_TOKEN, args=("--no-enable-prefix-caching",),
    )  # fmt: skip


async def measure(engines: Sequence[local.Engine], requests: Sequence[Request], warm_s: float) -> Run:
    by_policy = {e.options.policy: e for e in engines}
    seen = await run_load({p: e.url for p, e in by_policy.items()}, requests, TBT_S)
    return {p: figures(seen[p], await exported(e.metrics_url), warm_s, TBT_S) for p, e in by_policy.items()}


def one_run(
    policies: Sequence[str], scale: int, requests: Sequence[Request], warm_s: float
) -> dict[str, dict[str, float]]:
    """Fresh engines, so that no run learns from another."""
    ports = local.free_ports(2 * len(policies))
    with local.engines(*(options(p, scale, ports[2 * i : 2 * i + 2]) for i, p in enumerate(policies))) as engines:
        return asyncio.run(measure(engines, requests, warm_s))


def at_load(load: float, args: argparse.Namespace) -> str:
    trace = read_trace()
    rate_rps = load * capacity_rps(trace)
    made = [arrivals(trace, rate_rps, 60 * args.minutes, args.scale, seed) for seed in range(args.seeds)]
    counts = ", ".join(str(len(requests)) for requests in made)
    head = (
        f"Paced {MODEL}, scale {args.scale}, load {load:g} = {rate_rps:.2f} requests/s, {args.minutes:g} min,"
        f" seeds {args.seeds}: {counts} requests to each engine, the first tenth not counted."
    )
    print(head, flush=True)
    runs = [one_run(args.policies, args.scale, requests, WARM_UP_SHARE * 60 * args.minutes) for requests in made]
    text = f"{head}\n\n{table(runs)}"
    print(text, flush=True)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--load", type=float, nargs="+", default=[0.7, 0.9], help="share of full steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=int, default=4, help="real tokens for which one tiny token stands")
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=NAMES, help="the first is compared with")
    parser.add_argument("--write", action="store_true", help="keep the tables in bench/engine/RESULTS.md")
    args = parser.parse_args()
    texts = [f"## Load {load:g}\n\n{at_load(load, args)}" for load in args.load]
    if args.write:
        loads = " ".join(f"{load:g}" for load in args.load)
        flags = f"--minutes {args.minutes:g} --load {loads} --seeds {args.seeds} --scale {args.scale} --write"
        head = (
            f"# Stock order against SLAI and slai-plus, mixed paced engines\n\n`python -m bench.engine.compare {flags}`"
        )
        RESULTS.write_text("\n\n".join([head, *texts]) + "\n")


if __name__ == "__main__":
    main()
