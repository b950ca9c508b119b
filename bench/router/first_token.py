"""What handing the prefill engine's token to the client at once could gain: the part of TTFT after the prefill.

    python -m bench.router.first_token [--seconds 60] [--rates 0.5 1.5] [--pace rtx4090-mistral-7b,scale=8]

One prefill and one decode engine (real vLLM with the tiny model, *paced*) behind a router process; prompts and answers
of random lengths, Poisson arrivals. The router measures the parts of TTFT; after the prefill come the transfer of the
KV blocks, the decode engine's queue and one step. Nothing is handed over here: this is the most that it could save, and
the second token would come no sooner. Why it is not built: docs/evaluation.md.
"""

import argparse
import asyncio
import random

import aiohttp

from bench.router import overhead
from e2e.engine import local
from llmservice_core import metric_names as names

PROMPT, ANSWER = (50, 400), (20, 120)
"""Tokens of the tiny model, each of which is paced as `scale` of the card's."""


async def load(url: str, rate_rps: float, seconds: float, seed: int) -> None:
    draw, running = random.Random(seed), []
    async with aiohttp.ClientSession() as client, asyncio.timeout(seconds + 300):
        end_s = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end_s:
            prompt = [draw.randrange(4, 1024) for _ in range(draw.randint(*PROMPT))]
            running.append(asyncio.create_task(overhead.once(client, url, draw.randint(*ANSWER), prompt)))
            await asyncio.sleep(draw.expovariate(rate_rps))
        await asyncio.gather(*running)


async def parts(metrics_url: str) -> dict[str, tuple[float, float]]:
    """Sum of seconds and count, of TTFT and of each part of it."""
    async with aiohttp.ClientSession() as client, client.get(metrics_url) as reply:
        lines = [line for line in (await reply.text()).splitlines() if not line.startswith("#")]
    found: dict[str, tuple[float, float]] = {}
    for part in ("", *names.TTFT_PARTS):
        metric, label = (names.TTFT_PART_SECONDS, f'part="{part}"') if part else (names.TTFT_SECONDS, "")
        both = (sum(_value(line) for line in lines if line.startswith(metric + end) and label in line) for end in ENDS)
        found[part or "ttft"] = (next(both), next(both))
    return found


ENDS = ("_sum{", "_count{")


def _value(line: str) -> float:
    return float(line.rpartition(" ")[2])


async def measure(url: str, metrics_url: str, rate_rps: float, seconds: float) -> None:
    before = await parts(metrics_url)
    await load(url, rate_rps, seconds, seed=int(rate_rps * 10))
    after = await parts(metrics_url)
    count = after["ttft"][1] - before["ttft"][1]
    ms = {name: (after[name][0] - before[name][0]) / count * 1000 for name in after}
    split = ", ".join(f"{name} {value:.0f} ms" for name, value in ms.items())
    print(f"{rate_rps} requests/s, {count:.0f} requests, means: {split}: {ms['first_decode'] / ms['ttft']:.0%} at most")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.router.first_token", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.5])
    parser.add_argument("--pace", default="rtx4090-mistral-7b,scale=8")
    args = parser.parse_args()
    ports = iter(local.free_ports(6))
    wanted = [
        local.Options(role=r, port=next(ports), metrics_port=next(ports), nixl_port=next(ports), pace=args.pace)
        for r in ("prefill", "decode")
    ]
    with local.engines(*wanted) as (p, d), overhead.router("--prefill", p.url, "--decode", d.url) as one:
        asyncio.run(overhead.wait_ready(one.url))
        for rate_rps in args.rates:
            asyncio.run(measure(one.url, one.metrics_url, rate_rps, args.seconds))


if __name__ == "__main__":
    main()
