"""Decode slack takes prefill: how fast decode engines compute prompts beside their decodes, and what prefill is spared.

Conditional disaggregation after our sizing study, where it saved 4 to 5 % of the GPU-hours: two pools of whole
replicas leave a part of one idle, and decode steps, bound by memory, have time for prompts. Pure. A step of c prompt
tokens and n decodes must end within the engines' own aim of the tightest TBT; such steps set how many decode at once:

    n = output tokens/s of a replica x aim x TBT        c = the most with t(n, c) <= aim x TBT
    share = c / t(n, c) x tau_P                         spared = 0.5 min(replicas x share, short x want)

t(n, c): as this window's steps of the decode pool have it, if they were mixed often enough to tell; until then the sum
of a decode step and a prefill step, which is never too short, for a mixed step reads the weights once.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from llmservice_core.capacity import DECODES, KTOKENS, ONE, PoolCapacity, decode_step
from llmservice_core.model import Pool, PoolSeen
from llmservice_core.planner_demand import strictest_tbt_s
from llmservice_core.planner_facts import Draft, Drafts, Facts
from llmservice_core.planner_feedback import burns, decode_waits, missed
from llmservice_core.slack import CHUNK, MOST_HELD_TOKENS, SHARE, TAKEN
from llmservice_core.token_budget import AIM

COUNTED: Final = 0.5
"""Of the slack: prompts come in clumps, and slack of the moment between two is lost (sizing study)."""
LEAST_CHUNK_TOKENS: Final = 128.0
"""Less beside the decodes of a step is not worth a routing decision; engines never go below one tile of so much."""
BISECTIONS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What one decode replica computes of prompts; `why` says it, or why it computes none (chunk None)."""

    why: str
    chunk_tokens: float | None = None
    step_s: float = 0.0
    share: float = 0.0
    replicas: int = 0


def beside(facts: Facts) -> Beside | None:
    """Of the decode replicas that serve now; None: not asked for, or no two pools.

    Not of those that this plan wants: then more demand could give fewer prefill replicas.
    """
    if not (facts.goal.decode_takes_prefill and facts.settings.slack and {*facts.pools} == {Pool.PREFILL, Pool.DECODE}):
        return None
    prefill, decode = facts.capacity[Pool.PREFILL], facts.capacity[Pool.DECODE]
    if prefill.learned is None or decode.learned is None or facts.demand.unknown is not None:
        return Beside(why="decode engines compute no prompts: the cost of a step is not known")
    if decode_waits(facts) or any(b.burn > 1.0 for b in burns(facts, Pool.DECODE)):
        return Beside(why="decode engines compute no prompts while they miss or make wait")
    replicas = facts.pools[Pool.DECODE].ready
    if replicas == 0:
        return Beside(why="decode engines compute no prompts: none is Ready")
    return _spare(facts, prefill, decode, replicas)


def _spare(facts: Facts, prefill: PoolCapacity, decode: PoolCapacity, replicas: int) -> Beside:
    limit_s = AIM * strictest_tbt_s(facts.goal)
    residents = facts.demand.output_tokens_rps / replicas * limit_s
    if decode.width is not None and residents > decode.width:
        return Beside(
            why=f"decode engines compute no prompts: {residents:.0f} would decode in each, {decode.width} fit"
        )
    chunk = _widest_chunk(prefill, decode, facts.pools[Pool.DECODE], residents, limit_s)
    if chunk < LEAST_CHUNK_TOKENS:
        why = f"no time for prompts beside {residents:.0f} decodes within {1000 * limit_s:.0f} ms"
        return Beside(why=f"decode engines compute no prompts: {why}")
    step_s = mixed_s(prefill, decode, facts.pools[Pool.DECODE], residents, chunk) or limit_s
    share = min(1.0, chunk / step_s * (prefill.tau_prefill_s or 0.0))
    why = f"{replicas} decode replicas compute {chunk:.0f} prompt tokens beside {residents:.0f} decodes in"
    return Beside(
        why=f"{why} {1000 * step_s:.0f} ms, {share:.2f} of a prefill replica each",
        chunk_tokens=chunk,
        step_s=step_s,
        share=share,
        replicas=replicas,
    )


def _widest_chunk(
    prefill: PoolCapacity, decode: PoolCapacity, seen: PoolSeen, residents: float, limit_s: float
) -> float:
    """Real valued, so that a little more load never brings a whole tile."""
    low, high = 0.0, float((seen.limits.max_batched_tokens if seen.limits else None) or 0.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        seconds = mixed_s(prefill, decode, seen, residents, middle)
        low, high = (middle, high) if seconds is not None and seconds <= limit_s else (low, middle)
    return low


def mixed_s(
    prefill: PoolCapacity, decode: PoolCapacity, seen: PoolSeen, residents: float, chunk: float
) -> float | None:
    """Of a step that computes `chunk` prompt tokens beside so many decodes; None: unknown."""
    tile = seen.limits.tile_tokens if seen.limits else None
    if not tile or prefill.learned is None or decode.learned is None:
        return None
    context, attention = decode.learned.context_tokens or 0.0, prefill.learned.attention_per_token or 0.0
    tokens = residents + chunk
    x = (1.0, tokens / tile, tokens / 1000.0, attention * chunk, residents, residents * context / 1000.0)
    known = decode.seconds(x)
    if known is not None:
        return known
    alone = (1.0, chunk / tile, chunk / 1000.0, attention * chunk, 0.0, 0.0)
    of_decodes = _dot(decode.learned.theta, decode_step(max(1, math.ceil(residents)), tile, context))
    return _dot(prefill.learned.theta, alone) + of_decodes


def _dot(theta: tuple[float, ...], x: tuple[float, ...]) -> float:
    return sum(t * v for t, v in zip(theta, x, strict=True))


def relieved(facts: Facts, drafts: Drafts) -> tuple[Drafts, str] | None:
    """The prefill pool's wish without what decode slack takes, and the sentence of the step; None: not asked for."""
    found = beside(facts)
    if found is None:
        return None
    draft = drafts[Pool.PREFILL]
    if found.chunk_tokens is None or draft.is_held:
        return drafts, found.why
    short = short_share(facts)
    spared = COUNTED * min(found.replicas * found.share, short * draft.want)
    why = f"{found.why}; {100 * short:.0f} % of the prompt tokens are short enough: {spared:.2f} replicas spared"
    return {**drafts, Pool.PREFILL: _less(facts, draft, spared)}, why


def _less(facts: Facts, draft: Draft, spared: float) -> Draft:
    """Not below the present size while the pool misses; the promise comes before the saving."""
    desired = facts.pools[Pool.PREFILL].desired
    floor = min(draft.want, float(desired)) if missed(facts, Pool.PREFILL) else 0.0
    return replace(draft, want=max(0.0, floor, draft.want - spared))


def short_share(facts: Facts) -> float:
    """Of the prompt tokens, those in prompts that may go to a decode engine, if lengths are spread exponentially: then
    the mean of all is `scale`, and that of the prompt of a random token twice as much."""
    mean, random_token = facts.demand.prompt_tokens, facts.capacity[Pool.PREFILL].mean_square_prompt
    scale = max(mean or 0.0, (random_token or 0.0) / 2.0)
    if scale <= 0.0:
        return 0.0
    x = MOST_HELD_TOKENS / scale
    return 1.0 - math.exp(-x) * (1.0 + x)


def taken_share(facts: Facts) -> float | None:
    """Of all prompt tokens computed in the last half minute or so, those that decode engines did, by the steps of both
    pools; None while none was."""
    tokens = {pool: _prompt_tokens(seen) for pool, seen in facts.pools.items()}
    total = sum(tokens.values())
    return tokens.get(Pool.DECODE, 0.0) / total if total > 0.0 else None


def _prompt_tokens(seen: PoolSeen) -> float:
    sums = [s.xx for s in seen.recent_steps]
    return max(0.0, sum(1000.0 * xx.get((ONE, KTOKENS), 0.0) - xx.get((ONE, DECODES), 0.0) for xx in sums))


def published(facts: Facts) -> dict[str, float | None]:
    """What routers read of it, by its names in the plan's capacity, and how much was taken lately."""
    found = beside(facts)
    if found is None:
        return {}
    return {SHARE: found.share, CHUNK: found.chunk_tokens, TAKEN: taken_share(facts)}
