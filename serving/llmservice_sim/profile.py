"""Step sums as an engine would have them after serving one kind of traffic: what capacity is learned from, without a
run. For single decisions, and for laws that know the load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llmservice_core.latency import Work, work
from llmservice_core.model import EngineLimits, Pool, StepStats
from llmservice_core.step_sums import PAIRS, KindSums, features, kind_of
from llmservice_sim.fleet_settings import TILE_TOKENS, Replica

REPEATS = 20
"""Each distinct step counts so often: the planner wants to have seen 50 steps, and trusts 400."""
SPREAD = (0.5, 1.0, 1.5)
"""Contexts around the mean, so that the cost of KV shows apart from the cost of a sequence."""


def limits_of(replica: Replica) -> EngineLimits:
    """As the engine's exporter says them."""
    return EngineLimits(
        kv_tokens=float(replica.kv_tokens),
        max_batched_tokens=float(replica.limits.max_batched_tokens),
        max_seqs=float(replica.limits.max_seqs),
        tile_tokens=float(TILE_TOKENS),
    )


def step_stats(replica: Replica, pool: Pool, prompt_tokens: int, output_tokens: int) -> tuple[StepStats, ...]:
    """Steps of `pool` under prompts and answers of these lengths, by kind."""
    sums: dict[str, KindSums] = {}
    for w in _steps(replica, pool, prompt_tokens, output_tokens):
        seconds, x = replica.step_time(w), features(w, TILE_TOKENS)
        for _ in range(REPEATS):
            sums.setdefault(kind_of(w), KindSums()).add(x, seconds)
    return tuple(_stats(kind, s) for kind, s in sorted(sums.items()))


def _steps(replica: Replica, pool: Pool, prompt_tokens: int, output_tokens: int) -> Iterator[Work]:
    context = prompt_tokens + output_tokens / 2
    if pool is not Pool.DECODE:
        for chunks in _chunkings(replica, prompt_tokens):
            yield from (work(prefill=[chunk]) for chunk in chunks)
        yield from (work(prefill=batch) for batch in _batches(replica, prompt_tokens))
    if pool is not Pool.PREFILL:
        for width in _widths(replica, context):
            yield from (work(decode_kv=[round(context * share)] * width) for share in SPREAD)


def _chunkings(replica: Replica, prompt_tokens: int) -> Iterator[list[tuple[int, int]]]:
    """One prompt computed whole, in chunks of one tile up to the engine's budget."""
    width = TILE_TOKENS
    while True:
        size = min(width, replica.limits.max_batched_tokens)
        yield [(min(size, prompt_tokens - done), done) for done in range(0, prompt_tokens, size)]
        if size == replica.limits.max_batched_tokens:
            return
        width *= 2


def _batches(replica: Replica, prompt_tokens: int) -> Iterator[list[tuple[int, int]]]:
    """Several whole prompts in one step, as many as fit."""
    most = replica.limits.max_batched_tokens // prompt_tokens
    yield from ([(prompt_tokens, 0)] * count for count in range(2, min(most, 8) + 1))


def _widths(replica: Replica, context: float) -> list[int]:
    most = max(1, min(replica.limits.max_seqs, 2 * TILE_TOKENS, int(replica.kv_tokens / max(context, 1.0))))
    return sorted({min(most, width) for width in (1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 192, 256)})


def _stats(kind: str, sums: KindSums) -> StepStats:
    xx: Mapping[tuple[int, int], float] = dict(zip(PAIRS, sums.xx, strict=True))
    return StepStats(kind=kind, steps=sums.steps, seconds=sums.seconds, xx=xx, xy=dict(enumerate(sums.xy)))
