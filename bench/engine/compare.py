"""Stock order (fcfs) against SLAI and slai-plus on mixed engines, paced as the card of SLAI's paper, in one run.

    python -m bench.engine.compare [--minutes 8] [--load 0.9] [--scale 4] [--write]

Setup of the paper: Mistral-7B, ShareGPT lengths, Poisson arrivals, 5 % strict users (TBT 0.1 s), 95 % relaxed (0.5 s),
token budget 512 (slai-plus chooses, up to 768), 128 sequences, 235,728 tokens of KV cache. All engines get the same
requests at the same moments, so the ratios are paired. Paced, not computed: see llmservice_serving.pace; the share of
overruns is printed beside the numbers. `--write` keeps the table in bench/engine/RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from e2e.engine import local
from e2e.load import read_trace
from llmservice_core import metric_names as names
from llmservice_core.bulk import Bulk
from llmservice_core.step_models import step_model

PLUS = "slai-plus"
RESULTS = Path(__file__).with_name("RESULTS.md")
MODEL = "rtx4090-mistral-7b"
BUDGET, SEQUENCES, KV_TOKENS, MODEL_LEN = 512, 128, 235_728, 9_216
KV_BYTES_PER_TOKEN = 2048  # of the tiny model in float32
STRICT_SHARE = 0.05
TBT_S = {"strict": 0.1, "relaxed": 0.5}
TTFT_S = {"strict": 0.5, "relaxed": 30.0}
POLICIES = ("fcfs", "slai", PLUS)
WARM_UP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Request:
    at_s: float
    prompt: int
    output: int
    group: str


@dataclass(slots=True)
class Seen:
    request: Request
    ttft_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    error: str | None = None


def capacity_rps(trace: Sequence[tuple[int, int]]) -> float:
    """Requests per second that steps of a full token budget keep up with, prompts and decodes mixed as they come."""
    prompt, output = (sum(column) / len(trace) for column in zip(*trace, strict=True))
    kv = sum(o * (p + o / 2) for p, o in trace) / sum(o for _, o in trace)
    cached = sum(p * p / 2 for p, _ in trace) / sum(p for p, _ in trace)
    width = BUDGET * output / (prompt + output)
    step_s = step_model(MODEL).step_s([(round(BUDGET - width), round(cached))], [round(kv)] * round(width))
    return width / output / step_s


def arrivals(trace: Sequence[tuple[int, int]], rate_rps: float, seconds: float, scale: int) -> list[Request]:
    draw, at_s, made = random.Random(0), 0.0, []
    while (at_s := at_s + draw.expovariate(rate_rps)) < seconds:
        prompt, output = draw.choice(trace)
        group = "strict" if draw.random() < STRICT_SHARE else "relaxed"
        made.append(Request(at_s, max(1, round(prompt / scale)), max(2, round(output / scale)), group))
    return made


def options(policy: str, scale: int, ports: Sequence[int]) -> local.Options:
    budget = Bulk().widest if policy == PLUS else BUDGET
    return local.Options(
        port=ports[0], metrics_port=ports[1], policy=policy, pace=f"{MODEL},scale={scale}", service=f"bench/{policy}",
        max_batched_tokens=budget // scale, max_seqs=SEQUENCES // scale, max_model_len=MODEL_LEN // scale,
        kv_bytes=KV_TOKENS // scale**2 * KV_BYTES_PER_TOKEN, args=("--no-enable-prefix-caching",),
    )  # fmt: skip


async def send(session: aiohttp.ClientSession, url: str, request: Request, start_s: float) -> Seen:
    seen = Seen(request)
    await asyncio.sleep(max(0.0, start_s + request.at_s - time.monotonic()))
    draw = random.Random(request.at_s)
    body = {
        "model": "tiny", "prompt": [draw.randrange(4, 1000) for _ in range(request.prompt)], "stream": True,
        "max_tokens": request.output, "ignore_eos": True, "temperature": 0,
        "vllm_xargs": {"class": request.group, "tbt_s": TBT_S[request.group], "ttft_s": TTFT_S[request.group]},
    }  # fmt: skip
    sent_s = time.monotonic()
    try:
        async with session.post(f"{url}/v1/completions", json=body) as reply:
            await read(reply, seen, sent_s)
    except aiohttp.ClientError as e:
        seen.error = f"{type(e).__name__}: {e}"
    return seen


async def read(reply: aiohttp.ClientResponse, seen: Seen, sent_s: float) -> None:
    """Note when each chunk came. An answer is whole when its end mark is there."""
    last_s, seen.error = sent_s, f"HTTP {reply.status} or no end"
    async for line in reply.content:
        now_s = time.monotonic()
        if line.startswith(b"data: [DONE]"):
            seen.error = None
        if not line.startswith(b"data: {"):
            continue
        if seen.ttft_s is None:
            seen.ttft_s = now_s - sent_s
        else:
            seen.gaps_s.append(now_s - last_s)
        last_s = now_s


async def run_load(urls: dict[str, str], requests: Sequence[Request]) -> dict[str, list[Seen]]:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=600)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=aiohttp.TCPConnector(limit=0, force_close=True)
    ) as session:
        start_s = time.monotonic() + 1
        sent = {p: [asyncio.create_task(send(session, u, r, start_s)) for r in requests] for p, u in urls.items()}
        return {policy: await asyncio.gather(*tasks) for policy, tasks in sent.items()}


async def exported(url: str) -> dict[str, float]:
    """Sums of our engine counters over their labels, and the strict class's gaps as the engine saw them."""
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        text = await reply.text()
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            key, number = line.rsplit(" ", 1)
            name = key.split("{")[0] + (" strict" if 'class="strict"' in key else "")
            sums[name] = sums.get(name, 0.0) + float(number)
    return sums


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def figures(seen: Sequence[Seen], counters: dict[str, float], warm_s: float) -> dict[str, float]:
    kept = [s for s in seen if s.request.at_s >= warm_s]
    groups = {"all": kept, **{g: [s for s in kept if s.request.group == g] for g in TBT_S}}
    rows: dict[str, float] = {}
    for name, members in groups.items():
        ttfts = [s.ttft_s for s in members if s.ttft_s is not None]
        rows |= {f"TTFT p{round(100 * q)} {name}, s": quantile(ttfts, q) for q in (0.5, 0.95, 0.99)}
    for name, target_s in TBT_S.items():
        gaps = [gap for s in groups[name] for gap in s.gaps_s]
        rows[f"TBT p99 {name}, ms"] = 1000 * quantile(gaps, 0.99)
        rows[f"gaps within {1000 * target_s:.0f} ms, {name}, %"] = 100 * sum(g <= target_s for g in gaps) / len(gaps)
    events, good = (counters.get(f"{n} strict", 0.0) for n in (names.SLO_EVENTS, names.SLO_GOOD))
    rows["the same as the engine counts, strict, %"] = 100 * good / events if events else float("nan")
    rows["requests counted"] = float(len(kept))
    rows["failed"] = float(sum(s.error is not None for s in seen))
    rows["decodes hidden per step"] = counters.get(names.HIDDEN_TOTAL, 0.0) / counters[names.STEPS]
    rows["mean step, ms"] = 1000 * counters[names.STEP_SECONDS] / counters[names.STEPS]
    rows["steps that overran their pace, %"] = 100 * counters[names.PACE_OVERRUNS] / counters[names.PACED_STEPS]
    rows["time beyond the pace, %"] = 100 * counters[names.PACE_LATE_SECONDS] / counters[names.STEP_SECONDS]
    return rows


def table(found: dict[str, dict[str, float]]) -> str:
    stock, *ours = POLICIES
    lines = [f"| | {' | '.join((*POLICIES, *(f'{p} / {stock}' for p in ours)))} |"]
    lines.append("| --- " + "| ---: " * (2 * len(POLICIES) - 1) + "|")
    for name, value in found[stock].items():
        is_latency = bool(value) and name.startswith("T")
        ratios = [f"{found[p][name] / value:.2f}" if is_latency else "" for p in ours]
        lines.append(f"| {name} | {' | '.join((*(f'{found[p][name]:.4g}' for p in POLICIES), *ratios))} |")
    return "\n".join(lines)


async def measure(engines: Sequence[local.Engine], requests: Sequence[Request], warm_s: float) -> str:
    by_policy = {e.options.policy: e for e in engines}
    seen = await run_load({p: e.url for p, e in by_policy.items()}, requests)
    return table({p: figures(seen[p], await exported(e.metrics_url), warm_s) for p, e in by_policy.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--load", type=float, default=0.9, help="share of the rate that full mixed steps keep up with")
    parser.add_argument("--scale", type=int, default=4, help="real tokens for which one tiny token stands")
    parser.add_argument("--write", action="store_true", help="keep the table in bench/engine/RESULTS.md")
    args = parser.parse_args()
    trace = read_trace()
    rate_rps = args.load * capacity_rps(trace)
    requests = arrivals(trace, rate_rps, 60 * args.minutes, args.scale)
    ports = local.free_ports(2 * len(POLICIES))
    head = (
        f"Paced {MODEL}, scale {args.scale}, load {args.load:g} = {rate_rps:.2f} requests/s, {args.minutes:g} min,"
        f" {len(requests)} requests to each engine, the first tenth not counted."
    )
    print(head, flush=True)
    with local.engines(*(options(p, args.scale, ports[2 * i : 2 * i + 2]) for i, p in enumerate(POLICIES))) as engines:
        text = asyncio.run(measure(engines, requests, WARM_UP_SHARE * 60 * args.minutes))
    print(text)
    if args.write:
        flags = f"--minutes {args.minutes:g} --load {args.load:g} --scale {args.scale} --write"
        command = f"`python -m bench.engine.compare {flags}`"
        RESULTS.write_text(
            f"# Stock order against SLAI and slai-plus, mixed paced engines\n\n{command}\n\n{head}\n\n{text}\n"
        )


if __name__ == "__main__":
    main()
