"""What refusing late requests is worth under overload: the router's own rules, in virtual time.

    python -m bench.router.admission [--engines 4] [--gpu h100-llama-3.1-8b] [--json FILE]

ShareGPT lengths, Poisson arrivals, two classes: 90 % chat (TTFT 1 s) and 10 % batch (TTFT 30 s, never refused). The
same requests with `shed: Never` and with `shed: Late` for chat. Errors are of the time predicted on arrival, for those
that were served. Same arguments, same bytes.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.router.prefill_pool import Ask, PrefillPool, Served, percentile
from bench.router.routing import TWO_STEPS, sharegpt
from llmservice_core.step_models import names, step_model

CHAT, BATCH = "chat", "batch"
TARGETS_S = {CHAT: 1.0, BATCH: 30.0}
CHAT_SHARE = 0.9
LOADS = (0.8, 1.0, 1.2, 1.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`on_time`: of all requests of the class; `error_*`: absolute, seconds."""

    load: float
    shed: str
    chat_on_time: float
    chat_refused: float
    chat_late: float
    batch_on_time: float
    batch_p50_s: float
    error_p50_s: float
    error_p95_s: float


def measured(load: float, shed: str, gpu: str, engines: int) -> Row:
    model, rng = step_model(gpu), random.Random(1)
    asks = [classed(ask, rng) for ask in sharegpt(model, engines, load, 0)]
    pool = PrefillPool(engines, model, room=TWO_STEPS, sheds=(CHAT,) if shed == "Late" else ())
    served = pool.run(asks)
    chats, batches = ([a for a in asks if a.service_class == name] for name in (CHAT, BATCH))
    good = [s for s in served if s.ttft_s <= s.ask.ttft_s]
    chat_good = sum(s.ask.service_class == CHAT for s in good)
    errors = [abs(s.ttft_s - s.predicted_s) for s in served if s.predicted_s is not None]
    return Row(
        load=load,
        shed=shed,
        chat_on_time=chat_good / len(chats),
        chat_refused=len(pool.refused) / len(chats),
        chat_late=1 - (chat_good + len(pool.refused)) / len(chats),
        batch_on_time=(len(good) - chat_good) / len(batches),
        batch_p50_s=percentile([s.ttft_s for s in of_class(served, BATCH)], 50),
        error_p50_s=percentile(errors, 50),
        error_p95_s=percentile(errors, 95),
    )


def classed(ask: Ask, rng: random.Random) -> Ask:
    name = CHAT if rng.random() < CHAT_SHARE else BATCH
    return replace(ask, service_class=name, ttft_s=TARGETS_S[name])


def of_class(served: list[Served], name: str) -> Iterator[Served]:
    return (s for s in served if s.ask.service_class == name)


def table(rows: list[Row]) -> str:
    head = "| load | chat `shed` | on time | refused | served late | batch on time | its p50 s | error p50, p95 s |"
    lines = [head, "|---" * 8 + "|"]
    for r in rows:
        chat = f"| {r.load} | {r.shed} | {r.chat_on_time:.1%} | {r.chat_refused:.1%} | {r.chat_late:.1%} "
        lines.append(
            f"{chat}| {r.batch_on_time:.1%} | {r.batch_p50_s:.2f} | {r.error_p50_s:.3f}, {r.error_p95_s:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, default=4)
    parser.add_argument("--gpu", choices=names(), default="h100-llama-3.1-8b")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [measured(load, shed, args.gpu, args.engines) for load in LOADS for shed in ("Never", "Late")]
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
