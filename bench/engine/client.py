"""The client of the engine benchmarks: Poisson arrivals of two classes, answers read chunk by chunk, figures of them.

All times are as a client sees them, on the loopback; what the engine counted is read from its exporter afterwards.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

from llmservice_core import metric_names as names

STRICT_SHARE = 0.05
STRICT, RELAXED = "strict", "relaxed"
TTFT_S = {STRICT: 0.5, RELAXED: 30.0}


@dataclass(frozen=True, slots=True)
class Request:
    """When, how long (in tokens of the engine), which class."""

    at_s: float
    prompt: int
    output: int
    group: str


@dataclass(slots=True)
class Seen:
    request: Request
    ttft_s: float | None = None
    end_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    error: str | None = None


def arrivals(
    trace: Sequence[tuple[int, int]], rate_rps: float, seconds: float, scale: int, seed: int = 0
) -> list[Request]:
    """Poisson, lengths drawn from the trace, one tiny token for `scale` real ones."""
    draw, at_s, made = random.Random(seed), 0.0, []
    while (at_s := at_s + draw.expovariate(rate_rps)) < seconds:
        prompt, output = draw.choice(trace)
        group = STRICT if draw.random() < STRICT_SHARE else RELAXED
        made.append(Request(at_s, max(1, round(prompt / scale)), max(2, round(output / scale)), group))
    return made


async def send(
    session: aiohttp.ClientSession, url: str, request: Request, start_s: float, tbt_s: Mapping[str, float]
) -> Seen:
    seen = Seen(request)
    await asyncio.sleep(max(0.0, start_s + request.at_s - time.monotonic()))
    draw = random.Random(request.at_s)
    body = {
        "model": "tiny", "prompt": [draw.randrange(4, 1000) for _ in range(request.prompt)], "stream": True,
        "max_tokens": request.output, "ignore_eos": True, "temperature": 0,
        "vllm_xargs": {"class": request.group, "tbt_s": tbt_s[request.group], "ttft_s": TTFT_S[request.group]},
    }  # fmt: skip
    sent_s = time.monotonic()
    try:
        async with session.post(f"{url}/v1/completions", json=body) as reply:
            await read(reply, seen, sent_s)
    except aiohttp.ClientError as e:
        seen.error = f"{type(e).__name__}: {e}"
    seen.end_s = time.monotonic() - start_s
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


async def run_load(
    urls: Mapping[str, str], requests: Sequence[Request], tbt_s: Mapping[str, float]
) -> dict[str, list[Seen]]:
    """The same requests to each engine at the same moments."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=600)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=aiohttp.TCPConnector(limit=0, force_close=True)
    ) as session:
        start_s = time.monotonic() + 1
        sent = {
            name: [asyncio.create_task(send(session, url, request, start_s, tbt_s)) for request in requests]
            for name, url in urls.items()
        }
        return {name: await asyncio.gather(*tasks) for name, tasks in sent.items()}


async def exported(url: str) -> dict[str, float]:
    """Sums of our engine counters over their labels, and the strict class's gaps as the engine saw them."""
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        text = await reply.text()
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            key, number = line.rsplit(" ", 1)
            name = key.split("{")[0] + (f" {STRICT}" if f'class="{STRICT}"' in key else "")
            sums[name] = sums.get(name, 0.0) + float(number)
    return sums


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def figures(
    seen: Sequence[Seen], counters: Mapping[str, float], warm_s: float, tbt_s: Mapping[str, float]
) -> dict[str, float]:
    """Of the requests that came after `warm_s`: one row of the table each."""
    kept = [s for s in seen if s.request.at_s >= warm_s]
    groups = {"all": kept, **{g: [s for s in kept if s.request.group == g] for g in tbt_s}}
    rows: dict[str, float] = {}
    for name, members in groups.items():
        ttfts = [s.ttft_s for s in members if s.ttft_s is not None]
        rows |= {f"TTFT p{round(100 * q)} {name}, s": quantile(ttfts, q) for q in (0.5, 0.95, 0.99)}
    for name, target_s in tbt_s.items():
        gaps = [gap for s in groups[name] for gap in s.gaps_s]
        rows[f"TBT p99 {name}, ms"] = 1000 * quantile(gaps, 0.99)
        rows[f"gaps within {1000 * target_s:.0f} ms, {name}, %"] = 100 * sum(g <= target_s for g in gaps) / len(gaps)
    events, good = (counters.get(f"{n} {STRICT}", 0.0) for n in (names.SLO_EVENTS, names.SLO_GOOD))
    rows["the same as the engine counts, strict, %"] = 100 * good / events if events else float("nan")
    first, last = kept[0].request.at_s, max(s.end_s or 0.0 for s in kept)
    rows["tokens served per second"] = sum(s.request.prompt + s.request.output for s in kept) / (last - first)
    rows["requests counted"] = float(len(kept))
    rows["failed"] = float(sum(s.error is not None for s in seen))
    rows["decodes hidden per step"] = counters.get(names.HIDDEN_TOTAL, 0.0) / counters[names.STEPS]
    rows["mean step, ms"] = 1000 * counters[names.STEP_SECONDS] / counters[names.STEPS]
    if counters.get(names.PACED_STEPS):
        rows["steps that overran their pace, %"] = 100 * counters[names.PACE_OVERRUNS] / counters[names.PACED_STEPS]
        rows["time beyond the pace, %"] = 100 * counters[names.PACE_LATE_SECONDS] / counters[names.STEP_SECONDS]
    return rows


def table(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """Rows by policy (the first is the stock order), medians over the runs, and ratios to the stock order with their
    spread over the runs."""
    stock, *ours = runs[0]
    lines = [f"| | {' | '.join((stock, *ours, *(f'{p} / {stock}' for p in ours)))} |"]
    lines.append("| --- " + "| ---: " * (2 * len(ours) + 1) + "|")
    for name in runs[0][stock]:
        cells = [f"{quantile([run[p][name] for run in runs], 0.5):.4g}" for p in (stock, *ours)]
        is_compared = name.startswith(("TTFT", "TBT", "tokens"))
        ratios = [_spread([run[p][name] / run[stock][name] for run in runs]) if is_compared else "" for p in ours]
        lines.append(f"| {name} | {' | '.join((*cells, *ratios))} |")
    return "\n".join(lines)


def _spread(ratios: Sequence[float]) -> str:
    middle = f"{quantile(ratios, 0.5):.2f}"
    return middle if len(ratios) == 1 else f"{middle} ({min(ratios):.2f} to {max(ratios):.2f})"
