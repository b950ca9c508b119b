"""What one replica can do, learned online from the engines' step statistics, in RAD's quantities. No profiling run.

Step time is linear in metric_names.FEATURES (Eq. 7 of arXiv 2508.01002 with its attention terms). From the fit:
tau_P = t(prefill step of b_lcm tokens) / b_lcm and tau_D = t(decode step of width b at the mean context) / b.
Tokens, tiles and limits are the engine's own (a paced engine counts tiny tokens); no size is assumed here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmservice_core import least_squares
from llmservice_core.metric_names import FEATURES
from llmservice_core.model import EngineLimits, Pool, PoolSeen, StepStats

ONE, TILES, KTOKENS, ATTENTION, DECODES, DECODE_KV = range(len(FEATURES))

MIN_STEPS = 50.0
"""Fewer steps than this in the window say nothing; then the remembered coefficients hold."""
STEP_NOISE = 0.10
"""Assumed scatter of one step around the model, as a share of the mean step."""
FIRST_TRUST = 1.0
LATER_TRUST = 0.3
"""How far coefficients may be from the prior, as a share of the mean step: from none at all, and from the last fit."""
INDEPENDENT_STEPS = 400.0
MAX_ERROR = 0.35
"""A predicted step whose standard error is above this share of it is called unknown."""
KV_FILL = 0.9
"""Share of the KV cache that is planned for (sizing study); the rest absorbs long requests."""
MOST_TILES = 8
"""Batches wider than so many planned ones are not asked about."""
TBT_HEADROOM = 0.9
"""A planned step takes at most this share of the strictest TBT: steps scatter by about STEP_NOISE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What is remembered of one pool's engines: coefficients in FEATURES order, and where traffic made them work."""

    theta: tuple[float, ...]
    attention_per_token: float | None
    """Prefill attention work (feature units) per prompt token."""
    context_tokens: float | None
    """Mean KV tokens that a decoding sequence holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCapacity:
    """RAD's per-token costs of one replica; None is unknown and `unknown` then says why."""

    pool: Pool
    tau_prefill_s: float | None = None
    tau_decode_s: float | None = None
    chunk_tokens: int | None = None
    width: int | None = None
    bound: str = ""
    """What limits the width: b_col, kv, tbt or max_seqs."""
    widest: int | None = None
    """The same without b_col: more tiles cost more, but break no promise."""
    mean_square_prompt: float | None = None
    """E[v_p^2] / E[v_p] in tokens, from the attention work: a prompt without cache has work v_p^2 / 2."""
    steps: float = 0.0
    learned: Learned | None = None
    fit: least_squares.Fit | None = None
    """Behind `learned`, if steps of this window made it."""
    unknown: str | None = None

    def seconds(self, x: Sequence[float]) -> float | None:
        """Of a step with these features, as this window's steps have it; None where they cannot tell."""
        if self.learned is None or self.fit is None:
            return None
        model = _Model(learned=self.learned, fit=self.fit)
        return model.seconds(x) if model.is_known_at(x) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """Seconds per token at one step size (chunk tokens or width), or why they are unknown."""

    tau_s: float | None = None
    size: int | None = None
    bound: str = ""
    widest: int | None = None
    unknown: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A step model ready for questions: coefficients, and the fit behind them if this window made one."""

    learned: Learned
    fit: least_squares.Fit | None

    def seconds(self, x: Sequence[float]) -> float:
        return sum(t * v for t, v in zip(self.learned.theta, x, strict=True))

    def is_known_at(self, x: Sequence[float]) -> bool:
        seconds = self.seconds(x)
        return seconds > 0.0 and (self.fit is None or self.fit.error(x) <= MAX_ERROR * seconds)


def pool_capacity(pool: PoolSeen, strictest_tbt_s: float, remembered: Learned | None) -> PoolCapacity:
    """Capacity of one replica of `pool` now: from this window's steps if they suffice, else as remembered."""
    steps = sum(s.steps for s in pool.steps)
    candidates = [m for m in (_fitted(pool, remembered), _recalled(remembered)) if m is not None]
    if not candidates:
        return PoolCapacity(
            pool=pool.pool, steps=steps, unknown=f"{steps:.0f} engine steps seen, {MIN_STEPS:.0f} needed"
        )
    tile = pool.limits.tile_tokens if pool.limits else None
    if pool.limits is None or not tile:
        return PoolCapacity(pool=pool.pool, steps=steps, unknown="no engine of this pool reports its limits")
    answers = [_priced(pool.pool, m, pool.limits, tile, strictest_tbt_s, steps) for m in candidates]
    return next((a for a in answers if a.unknown is None), answers[0])


def _fitted(pool: PoolSeen, remembered: Learned | None) -> _Model | None:
    """Coefficients from the long window; the lengths that they are asked at from the short one, if it has enough."""
    sums = _sums(pool.steps)
    if sums is None:
        return None
    prior = remembered.theta if remembered else None
    trust = LATER_TRUST if remembered else FIRST_TRUST
    fit = least_squares.fit(sums, noise=STEP_NOISE, trust=trust, most=INDEPENDENT_STEPS, prior=prior)
    present = _lengths(fit.theta, _sums(pool.recent_steps) or sums, remembered)
    return _Model(learned=present, fit=fit)


def _sums(stats: Sequence[StepStats]) -> least_squares.Sums | None:
    """All kinds together; None if there are too few steps to say anything."""
    seen = [s for s in stats if s.steps > 0]
    if sum(s.steps for s in seen) < MIN_STEPS or sum(s.seconds for s in seen) <= 0.0:
        return None
    size = len(FEATURES)
    return least_squares.add([least_squares.from_triangle(s.steps, s.seconds, s.xx, s.xy, size) for s in seen])


def _recalled(remembered: Learned | None) -> _Model | None:
    return _Model(learned=remembered, fit=None) if remembered else None


def _lengths(theta: tuple[float, ...], sums: least_squares.Sums, before: Learned | None) -> Learned:
    """Coefficients with the mean work per token of these steps; what did not occur in them stays as remembered."""
    total = sums.xx[ONE]
    prompt_tokens = 1000.0 * total[KTOKENS] - total[DECODES]
    attention = before.attention_per_token if before else None
    if prompt_tokens >= 1.0:
        attention = total[ATTENTION] / prompt_tokens
    context = before.context_tokens if before else None
    if total[DECODES] >= 1.0:
        context = 1000.0 * total[DECODE_KV] / total[DECODES]
    return Learned(theta=theta, attention_per_token=attention, context_tokens=context)


def _priced(
    pool: Pool, model: _Model, limits: EngineLimits, tile: float, strictest_tbt_s: float, steps: float
) -> PoolCapacity:
    """Both per-token costs; a pool is unknown if a cost that it needs is."""
    prefill = _prefill_cost(model, limits, tile)
    decode = _decode_cost(model, limits, tile, strictest_tbt_s)
    needed = {Pool.PREFILL: [prefill], Pool.DECODE: [decode], Pool.MIXED: [prefill, decode]}[pool]
    unknown = next((f"{cost.unknown} ({steps:.0f} steps seen)" for cost in needed if cost.unknown), None)
    attention = model.learned.attention_per_token
    return PoolCapacity(
        pool=pool,
        tau_prefill_s=prefill.tau_s,
        chunk_tokens=prefill.size,
        tau_decode_s=decode.tau_s,
        width=decode.size,
        bound=decode.bound,
        widest=decode.widest,
        mean_square_prompt=2e6 * attention if attention is not None else None,
        steps=steps,
        learned=model.learned if unknown is None else None,
        fit=model.fit if unknown is None else None,
        unknown=unknown,
    )


def _prefill_cost(model: _Model, limits: EngineLimits, tile: float) -> _Cost:
    """tau_P. The chunk is the largest whole number of tiles in the engine's token budget.

    In Eq. 7 every whole tile costs the same, so the paper takes one; a real step has a constant part besides, and the
    cheapest whole-tile chunk, which a loaded engine runs, is the largest.
    """
    attention = model.learned.attention_per_token
    if attention is None:
        return _Cost(unknown="no prefill step seen yet")
    tiles = max(1, math.floor((limits.max_batched_tokens or tile) / tile))
    chunk = tiles * tile
    x = (1.0, float(tiles), chunk / 1000.0, attention * chunk, 0.0, 0.0)
    if not model.is_known_at(x):
        return _Cost(size=round(chunk), unknown="prefill steps seen are too alike to tell the cost of a full one")
    return _Cost(tau_s=model.seconds(x) / chunk, size=round(chunk))


def _decode_cost(model: _Model, limits: EngineLimits, tile: float, strictest_tbt_s: float) -> _Cost:
    """tau_D at width = min(b_col, KV tokens / mean held tokens, max_seqs, widest step that meets the strictest TBT)."""
    context = model.learned.context_tokens
    if context is None:
        return _Cost(unknown="no decode step seen yet")
    caps = {"b_col": tile, "max_seqs": limits.max_seqs or math.inf}
    if limits.kv_tokens and context > 0:
        caps["kv"] = KV_FILL * limits.kv_tokens / context
    bound = min(caps, key=lambda name: caps[name])
    cap = max(1, math.floor(caps[bound]))
    width = _widest(model, tile, context, cap, TBT_HEADROOM * strictest_tbt_s)
    x = decode_step(width, tile, context)
    if not model.is_known_at(x):
        return _Cost(size=width, unknown=f"decode steps seen are too alike to tell the cost of {width} sequences")
    hard = max(1, math.floor(min(v for name, v in caps.items() if name != "b_col")))
    widest = _widest(model, tile, context, min(hard, MOST_TILES * cap), TBT_HEADROOM * strictest_tbt_s)
    is_seen = model.is_known_at(decode_step(widest, tile, context))
    return _Cost(
        tau_s=model.seconds(x) / width,
        size=width,
        bound="tbt" if width < cap else bound,
        widest=widest if is_seen else width,
    )


def decode_step(width: int, tile: float, context_tokens: float) -> tuple[float, ...]:
    """Features of a pure decode step of `width` sequences that hold `context_tokens` each."""
    tiles = float(math.ceil(width / tile))
    return (1.0, tiles, width / 1000.0, 0.0, float(width), width * context_tokens / 1000.0)


def _widest(model: _Model, tile: float, context_tokens: float, cap: int, limit_s: float) -> int:
    """Largest width up to `cap` whose step fits in `limit_s`; 1 if none does. Step time grows with width."""
    low, high = 1, cap
    while low < high:
        middle = (low + high + 1) // 2
        fits = model.seconds(decode_step(middle, tile, context_tokens)) <= limit_s
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
