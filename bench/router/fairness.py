"""One tenant sends twenty times as much as another, on kind: how much later does the other's first token come?

    python -m e2e.cluster exec -- python -m bench.router.fairness [--minutes 8] [--load 1.2] [--prefill 4] [--json FILE]

Real router, API keys and vLLM pods, paced (Mistral-7B on an RTX 4090, a tiny token for 8). The quiet tenant's requests
are the same, at the same times, alone and beside the greedy one. Load: prompt work of both over what the prefill pods
can do. The bar: TTFT p95 at most 1.3 times its value alone. Needs `make cluster` and `python -m e2e.install`.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import yaml

from bench.router.prefill_pool import percentile, prefill_s
from e2e import kube
from e2e.chain import services
from e2e.demo.chat import wait_ready
from llmservice_core import metric_names
from llmservice_core.step_models import step_model

NAME, SECRET = "fair", "fair-keys"
GPU, SCALE = "rtx4090-mistral-7b", 8
GREEDY_TIMES = 20
BAR = 1.3
KEYS = {"quiet": "sk-quiet-" + "q" * 40, "greedy": "sk-greedy-" + "g" * 40}
LENGTHS = (1024, 2048, 4096, 8192)
"""Of prompts, each as likely, in tokens of the card: long, so that two cores need not carry many requests."""
ANSWER_TOKENS = 2
STEP_TOKENS = 64
"""Of an engine, in tiny tokens; the router keeps about two steps of work in each."""
SETTLE_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`at_s` from the beginning of the phase; `prompt` is one tiny token per character."""

    at_s: float
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Seconds. `overruns`: share of steps that the machine was too slow for; None: unknown."""

    prefill_pods: int
    load: float
    quiet_rps: float
    requests: int
    failed: int
    alone_p50_s: float
    alone_p95_s: float
    beside_p50_s: float
    beside_p95_s: float
    p95_ratio: float
    greedy_answered: int
    greedy_p50_s: float | None
    overruns: float | None


def quiet_rps(pods: int, load: float) -> float:
    """So that both tenants together ask for `load` of what the pods can do."""
    work_s = sum(prefill_s(step_model(GPU), n) for n in LENGTHS) / len(LENGTHS)
    return load * pods / work_s / (GREEDY_TIMES + 1)


def asks(rate_rps: float, seconds: float, seed: int) -> list[Asked]:
    draw, at_s, made = random.Random(seed), 0.0, []
    while (at_s := at_s + draw.expovariate(rate_rps)) < seconds:
        text = "".join(draw.choices("abcdefghij ", k=draw.choice(LENGTHS) // SCALE))
        made.append(Asked(at_s=at_s, prompt=text))
    return made


class Tenant:
    """Sends its requests at their times, whatever becomes of them. `ttfts_s` None: no first token came."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key
        self.ttfts_s: list[float | None] = []

    async def send(self, todo: Sequence[Asked]) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        timeout, connector = aiohttp.ClientTimeout(total=600), aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
            began_s = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for ask in todo:
                    await asyncio.sleep(max(0.0, began_s + ask.at_s - time.monotonic()))
                    group.create_task(self._one(session, ask))

    async def _one(self, session: aiohttp.ClientSession, ask: Asked) -> None:
        body = {"model": NAME, "prompt": ask.prompt, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "stream": True}
        sent_s, ttft_s = time.monotonic(), None
        try:
            async with session.post(f"{self._url}/v1/completions", json=body) as reply:
                async for line in reply.content:
                    if ttft_s is None and reply.status == 200 and b'"text"' in line:
                        ttft_s = time.monotonic() - sent_s
        except (aiohttp.ClientError, TimeoutError):
            ttft_s = None
        self.ttfts_s.append(ttft_s)


async def alone(url: str, todo: Sequence[Asked]) -> list[float | None]:
    tenant = Tenant(url, KEYS["quiet"])
    await tenant.send(todo)
    return tenant.ttfts_s


async def beside(url: str, todo: Sequence[Asked], crowd: Sequence[Asked]) -> tuple[list[float | None], list[float]]:
    """What the greedy tenant still waits for when the quiet one is done is given up."""
    quiet, greedy = Tenant(url, KEYS["quiet"]), Tenant(url, KEYS["greedy"])
    flood = asyncio.create_task(greedy.send(crowd))
    await quiet.send(todo)
    flood.cancel()
    await asyncio.gather(flood, return_exceptions=True)
    return quiet.ttfts_s, [t for t in greedy.ttfts_s if t is not None]


@contextmanager
def service(pods: int) -> Iterator[str]:
    """Its URL; deleted at the end."""
    namespace = services.NAMESPACE
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    tenants = {name: yaml.safe_dump({"keys": [key]}) for name, key in KEYS.items()}
    metadata = {"name": SECRET, "namespace": namespace}
    kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": tenants})
    made = services.leaving(NAME, prefill=pods, decode=1)
    made["spec"]["router"] = {"replicas": 1, "access": {"apiKeysSecret": SECRET}}
    made["spec"]["engine"]["scheduler"] = {"tokenBudget": STEP_TOKENS}
    kube.apply(made)
    try:
        wait_ready(namespace, NAME, 300)
        yield kube.expose(namespace, NAME)
    finally:
        kube.kubectl("-n", namespace, "delete", "llmsvc", NAME)
        kube.kubectl("-n", namespace, "delete", "secret", SECRET)


def measure(url: str, args: argparse.Namespace) -> Result:
    rate_rps, seconds = quiet_rps(args.prefill, args.load), args.minutes * 60
    todo, crowd = asks(rate_rps, seconds, 1), asks(rate_rps * GREEDY_TIMES, seconds, 2)
    asyncio.run(alone(url, asks(rate_rps, SETTLE_S, 3)))
    began_s = time.monotonic()
    first = asyncio.run(alone(url, todo))
    second, greedy = asyncio.run(beside(url, todo, crowd))
    time.sleep(SETTLE_S)  # the last scrape
    quiet, crowded = ([t for t in ttfts if t is not None] for ttfts in (first, second))
    p50, p95 = percentile(quiet, 50), percentile(quiet, 95)
    return Result(
        prefill_pods=args.prefill,
        load=args.load,
        quiet_rps=round(rate_rps, 3),
        requests=len(todo),
        failed=2 * len(todo) - len(quiet) - len(crowded),
        alone_p50_s=round(p50, 3),
        alone_p95_s=round(p95, 3),
        beside_p50_s=round(percentile(crowded, 50), 3),
        beside_p95_s=round(percentile(crowded, 95), 3),
        p95_ratio=round(percentile(crowded, 95) / p95, 3),
        greedy_answered=len(greedy),
        greedy_p50_s=round(percentile(greedy, 50), 3) if greedy else None,
        overruns=overruns(time.monotonic() - began_s),
    )


def overruns(seconds: float) -> float | None:
    """Per paced step."""
    label = f'{{llmservice="{services.NAMESPACE}/{NAME}"}}[{seconds:.0f}s]'
    late, steps = (
        kube.prometheus(f"sum(increase({metric}{label}))")
        for metric in (metric_names.PACE_OVERRUNS, metric_names.PACED_STEPS)
    )
    return round(late[0][1] / steps[0][1], 4) if late and steps and steps[0][1] else None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.router.fairness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="of each of the two phases")
    parser.add_argument("--load", type=float, default=1.2)
    parser.add_argument("--prefill", type=int, default=4, help="prefill pods")
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    with service(args.prefill) as url:
        result = measure(url, args)
    for name, value in asdict(result).items():
        print(f"{name:20}{value}")
    if args.json:
        args.json.write_text(json.dumps(asdict(result), indent=2) + "\n")
    is_met = result.p95_ratio <= BAR and not result.failed
    print(f"bar of {BAR} times: {'met' if is_met else 'NOT MET'}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
