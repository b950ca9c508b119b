"""RAD's own claims on measured step times: the throughput bound, the prefill share, what a wrong tile costs.

    python -m bench.sizing.rad_claims [--requests 4000] [--write]

One engine, all requests there at the start (ShareGPT lengths), KV cache without bound (Assumption 4 of Bari, Hegde, de
Veciana, arXiv 2508.01002). `ideal` is Theorem 1's d = E[v_p] tau_P + E[v_d] tau_D with the measured steps: prompts in
whole chunks of 512 tokens, decodes in steps of 128, attention at the lengths that occur. Throughput is given as ideal
seconds of all requests / seconds that the engine took, the last requests' thin batches included.

In Eq. 7 a step costs by its tiles alone. Measured steps have a constant part too, which larger and mixed steps share:
an order that mixes (Sarathi's, given beside) may exceed 1, for it takes other steps than the bound counts with.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.load import read_trace
from llmservice_core.latency import StepModel, Work
from llmservice_core.policy_orders import Sarathi
from llmservice_core.policy_rad import Rad
from llmservice_core.step_models import step_model
from llmservice_core.steps import Policy
from llmservice_sim.engine import Engine, EngineLimits
from llmservice_sim.jobs import Arrival
from llmservice_sim.run import run

RESULTS = Path(__file__).with_name("RAD_CLAIMS.md")
CARDS = ("rtx4090-mistral-7b", "a100-llama-3-8b", "h100-llama-3.1-8b")
TILE, WIDTH = 512, 128
CHUNKS = (128, 256, 384, 448, 500, 512, 520, 640, 1024, 2048)
WIDTHS = (32, 64, 96, 120, 128, 129, 160, 192, 256)
LIMITS = EngineLimits(max_batched_tokens=4096, max_seqs=512, kv_blocks=10_000_000)
TBT_S = 60.0
"""A target that never binds: RAD knows none."""


@dataclass(slots=True)
class Meter:
    """A step clock that keeps how long steps with and without prompts took."""

    model: StepModel
    prompt_s: float = 0.0
    decode_s: float = 0.0

    def __call__(self, work: Work) -> float:
        seconds = self.model.work_s(work)
        if work.new_tokens:
            self.prompt_s += seconds
        else:
            self.decode_s += seconds
        return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Ideal:
    """Seconds that prompts and answers of a whole trace need when every step is tiled."""

    prompts_s: float
    answers_s: float

    @property
    def total_s(self) -> float:
        return self.prompts_s + self.answers_s


def trace(requests: int, *, is_tiled: bool, seed: int = 0) -> list[Arrival]:
    """`is_tiled`: prompts are whole chunks (Assumption 3), else as they come."""
    draw, rows, made = random.Random(seed), read_trace(), []
    for _ in range(requests):
        prompt, output = draw.choice(rows)
        if is_tiled:
            prompt = TILE * max(1, round(prompt / TILE))
        made.append(Arrival(time_s=0.0, prompt_tokens=prompt, output_tokens=output, service_class="all", tbt_s=TBT_S))
    return made


def ideal(model: StepModel, arrivals: Sequence[Arrival], tile: int = TILE, width: int = WIDTH) -> Ideal:
    """The first answer token comes with the prompt, so an answer takes one decode fewer than it has tokens."""
    prompts_s = sum(_prompt_s(model, a.prompt_tokens, tile) for a in arrivals)
    decodes = sum(a.output_tokens - 1 for a in arrivals)
    held = sum((a.output_tokens - 1) * (a.prompt_tokens + a.output_tokens / 2) for a in arrivals)
    step_s = model.step_s([], [round(held / decodes)] * width)
    return Ideal(prompts_s=prompts_s, answers_s=decodes / width * step_s)


def _prompt_s(model: StepModel, prompt: int, tile: int) -> float:
    """Whole chunks one by one; a rest costs its share of a whole one, which other prompts fill."""
    whole, rest = divmod(prompt, tile)
    seconds = sum(model.step_s([(tile, k * tile)]) for k in range(whole))
    return seconds + rest / tile * model.step_s([(tile, whole * tile)])


def served(policy: Policy, arrivals: Sequence[Arrival], meter: Meter, budget: int | None = None) -> float:
    """Seconds until all are done. `budget`: tokens of a step, for an order that has no tile of its own."""
    return run(arrivals, Engine(LIMITS, policy, meter.model.work_s, budget), meter).end_s


def orders() -> list[tuple[str, Policy, int | None]]:
    """Name, policy, token budget of a step."""
    cycles = [(f"RAD, N = {n}", Rad(tile=TILE, width=WIDTH, cycle=float(n)), None) for n in (2048, 512, 128)]
    return [
        ("RAD, N infinite", Rad(tile=TILE, width=WIDTH), None),
        ("RAD, N infinite, rests not filled", Rad(tile=TILE, width=WIDTH, is_packed=False), None),
        *cycles,
        (f"Sarathi, mixed steps of {TILE}", Sarathi(), TILE),
    ]


def bound_table(requests: int) -> str:
    lines = ["| throughput / Theorem 1, measured steps | " + " | ".join(f"{c}: tiled, real" for c in CARDS) + " |"]
    lines.append("| --- |" + " ---: |" * len(CARDS))
    traces = [trace(requests, is_tiled=tiled) for tiled in (True, False)]
    cells: dict[str, list[str]] = {}
    for card in CARDS:
        model = step_model(card)
        found: dict[str, list[float]] = {}
        for arrivals in traces:
            best_s = ideal(model, arrivals).total_s
            for name, policy, budget in orders():
                found.setdefault(name, []).append(best_s / served(policy, arrivals, Meter(model), budget))
        for name, ratios in found.items():
            cells.setdefault(name, []).append(", ".join(f"{r:.3f}" for r in ratios))
    return "\n".join([*lines, *(f"| {name} | {' | '.join(row)} |" for name, row in cells.items())])


def share_table(requests: int) -> str:
    lines = [
        "| card | prefill share of an engine's time, predicted E[v_p] tau_P / d | simulated |",
        "| --- | ---: | ---: |",
    ]
    arrivals = trace(requests, is_tiled=False)
    for card in CARDS:
        meter = Meter(step_model(card))
        served(Rad(tile=TILE, width=WIDTH), arrivals, meter)
        said, is_so = ideal(meter.model, arrivals), meter.prompt_s / (meter.prompt_s + meter.decode_s)
        lines.append(f"| {card} | {said.prompts_s / said.total_s:.3f} | {is_so:.3f} |")
    return "\n".join(lines)


def tile_table(requests: int, sizes: Sequence[int], what: str) -> str:
    """One size is changed, the other stays; seconds relative to the best of the row."""
    arrivals = trace(requests, is_tiled=False)
    lines = [f"| {what} | " + " | ".join(map(str, sizes)) + " |", "| --- |" + " ---: |" * len(sizes)]
    for card in CARDS:
        policies = [Rad(tile=n, width=WIDTH) if what == "chunk" else Rad(tile=TILE, width=n) for n in sizes]
        seconds = [served(policy, arrivals, Meter(step_model(card))) for policy in policies]
        lines.append(f"| {card} | " + " | ".join(f"{min(seconds) / s:.3f}" for s in seconds) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--write", action="store_true", help=f"keep the tables in {RESULTS.name}")
    args = parser.parse_args()
    parts = [
        f"# RAD's claims on measured step times\n\n{(__doc__ or '').strip()}",
        f"## The bound\n\n{bound_table(args.requests)}",
        f"## The prefill share\n\n{share_table(args.requests)}",
        f"## A wrong tile: throughput of the best chunk, decodes at most {WIDTH}\n\n"
        + tile_table(args.requests // 2, CHUNKS, "chunk"),
        f"## A wrong width: throughput of the best width, chunks of {TILE}\n\n"
        + tile_table(args.requests // 2, WIDTHS, "width"),
    ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if args.write:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
