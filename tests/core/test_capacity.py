"""Capacity from step sums: the truth is a known step model, the traffic is what a pod really sees, noise included."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservice_core import least_squares
from llmservice_core.capacity import DECODES, MIN_STEPS, Learned, PoolCapacity, decode_step, pool_capacity
from llmservice_core.model import EngineLimits, Pool, PoolSeen, StepStats

THETA = (0.006, 0.004, 0.035, 0.010, 0.0002, 0.00045)
"""A step of 6 ms + 4 ms a tile + 35 us a token + attention; decodes 0.2 ms each and 0.45 us per KV token."""
TILE = 128
LIMITS = EngineLimits(kv_tokens=1_000_000, max_batched_tokens=512, max_seqs=256, tile_tokens=TILE)

Step = tuple[float, ...]


def true_seconds(x: Sequence[float]) -> float:
    return sum(t * v for t, v in zip(THETA, x, strict=True))


def prefill_step(new: int, cached: int, tile: int = TILE) -> Step:
    return (1.0, math.ceil(new / tile), new / 1000, new * (cached + new / 2) / 1e6, 0.0, 0.0)


def mixed_step(new: int, cached: int, width: int, context: float) -> Step:
    p, d = prefill_step(new, cached), decode_step(width, TILE, context)
    return (1.0, math.ceil((new + width) / TILE), p[2] + d[2], p[3], d[4], d[5])


def prompt_steps(prompt: int, budget: int = 512) -> Iterable[Step]:
    return (prefill_step(min(budget, prompt - done), done) for done in range(0, prompt, budget))


def stats(kind: str, steps: Iterable[Step], rng: random.Random, noise: float = 0.05) -> StepStats:
    """Sums as the exporter makes them, with lognormal noise on each step."""
    rows = list(steps)
    ys = [true_seconds(x) * math.exp(rng.gauss(0.0, noise)) for x in rows]
    size = len(THETA)
    return StepStats(
        kind=kind,
        steps=len(rows),
        seconds=sum(ys),
        xx={(i, j): sum(x[i] * x[j] for x in rows) for i in range(size) for j in range(i, size)},
        xy={i: sum(x[i] * y for x, y in zip(rows, ys, strict=True)) for i in range(size)},
    )


def seen(pool: Pool, *steps: StepStats, limits: EngineLimits | None = LIMITS) -> PoolSeen:
    return PoolSeen(pool=pool, desired=1, ready=1, starting=0, draining=0, unschedulable=0, limits=limits, steps=steps)


def capacity(pool: Pool, *steps: StepStats, tbt_s: float = 0.1, remembered: Learned | None = None) -> PoolCapacity:
    return pool_capacity(seen(pool, *steps), tbt_s, remembered)


def prompts(rng: random.Random, count: int) -> list[int]:
    return [min(8000, 16 + int(rng.lognormvariate(7.0, 0.9))) for _ in range(count)]


def decodes(rng: random.Random, count: int, widths: Sequence[int], context: float = 900.0) -> list[Step]:
    chosen = (rng.choice(widths) for _ in range(count))
    return [decode_step(w, TILE, context * rng.uniform(0.7, 1.3)) for w in chosen]


@pytest.mark.parametrize("seed", range(5))
def test_tau_prefill_within_5_percent_from_prompts_of_a_prefill_pool(seed: int) -> None:
    rng = random.Random(seed)
    lengths = prompts(rng, 200)
    got = capacity(Pool.PREFILL, stats("prefill", (s for n in lengths for s in prompt_steps(n)), rng))
    attention = sum(n * n / 2 / 1e6 for n in lengths) / sum(lengths)
    truth = true_seconds((1.0, 4.0, 0.512, 512 * attention, 0.0, 0.0)) / 512
    assert got.unknown is None
    assert got.chunk_tokens == 512
    assert got.tau_prefill_s == pytest.approx(truth, rel=0.05)
    assert got.mean_square_prompt == pytest.approx(sum(n * n for n in lengths) / sum(lengths), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_tau_decode_within_5_percent_from_varied_widths(seed: int) -> None:
    rng = random.Random(seed)
    got = capacity(Pool.DECODE, stats("decode", decodes(rng, 1500, range(4, 90)), rng), tbt_s=0.2)
    context = got.learned.context_tokens if got.learned else None
    assert context is not None
    assert got.width == TILE
    assert got.bound == "b_col"
    assert got.tau_decode_s == pytest.approx(true_seconds(decode_step(TILE, TILE, context)) / TILE, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_mixed_pool_learns_both_from_mixed_traffic(seed: int) -> None:
    rng = random.Random(seed)
    lengths = prompts(rng, 120)
    mixed = [
        mixed_step(rng.randint(16, 512), rng.choice((0, 0, 512, 1024)), rng.randint(1, 60), 900.0) for _ in lengths
    ]
    got = capacity(
        Pool.MIXED,
        stats("prefill", (s for n in lengths for s in prompt_steps(n)), rng),
        stats("decode", decodes(rng, 1000, range(1, 80)), rng),
        stats("mixed", mixed, rng),
    )
    assert got.unknown is None
    assert got.learned is not None
    attention, context = got.learned.attention_per_token, got.learned.context_tokens
    assert attention is not None
    assert context is not None
    chunk = true_seconds((1.0, 4.0, 0.512, 512 * attention, 0.0, 0.0)) / 512
    assert got.tau_prefill_s == pytest.approx(chunk, rel=0.05)
    width = got.width or 0
    assert got.tau_decode_s == pytest.approx(true_seconds(decode_step(width, TILE, context)) / width, rel=0.05)


def test_tiny_tokens_of_a_paced_engine_need_no_other_code() -> None:
    rng = random.Random(0)
    scale = 8
    steps = []
    for _ in range(400):
        new = rng.randint(1, 64)
        real = prefill_step(new * scale, 0)
        steps.append((prefill_step(new, 0, TILE // scale), true_seconds(real)))
    rows = [x for x, _ in steps]
    size = len(THETA)
    paced = StepStats(
        kind="prefill",
        steps=len(rows),
        seconds=sum(y for _, y in steps),
        xx={(i, j): sum(x[i] * x[j] for x in rows) for i in range(size) for j in range(i, size)},
        xy={i: sum(x[i] * y for x, y in steps) for i in range(size)},
    )
    limits = EngineLimits(kv_tokens=10_000, max_batched_tokens=64, max_seqs=32, tile_tokens=TILE / scale)
    got = pool_capacity(seen(Pool.PREFILL, paced, limits=limits), 0.1, None)
    attention = sum(x[3] for x in rows) / (1000 * sum(x[2] for x in rows))
    truth = true_seconds((1.0, 4.0, 0.512, scale * scale * 64 * attention, 0.0, 0.0))
    assert got.chunk_tokens == 64
    assert got.tau_prefill_s == pytest.approx(truth / 64, rel=0.02)


WIDTHS = {
    "tile": (EngineLimits(kv_tokens=1e6, max_batched_tokens=512, max_seqs=256, tile_tokens=128), 0.5, 128, "b_col"),
    "kv": (EngineLimits(kv_tokens=40_000, max_batched_tokens=512, max_seqs=256, tile_tokens=128), 0.5, 40, "kv"),
    "max seqs": (
        EngineLimits(kv_tokens=1e6, max_batched_tokens=512, max_seqs=24, tile_tokens=128),
        0.5,
        24,
        "max_seqs",
    ),
    "tbt": (EngineLimits(kv_tokens=1e6, max_batched_tokens=512, max_seqs=256, tile_tokens=128), 0.050, 54, "tbt"),
    "no step meets tbt": (LIMITS, 0.001, 1, "tbt"),
}


@pytest.mark.parametrize("name", WIDTHS)
def test_what_binds_the_decode_width(name: str) -> None:
    limits, tbt_s, width, bound = WIDTHS[name]
    rng = random.Random(1)
    steps = stats("decode", decodes(rng, 3000, range(1, 128)), rng, noise=0.0)
    got = pool_capacity(seen(Pool.DECODE, steps, limits=limits), tbt_s, None)
    assert got.bound == bound
    assert got.width == pytest.approx(width, abs=1)


class TestUnknown:
    def test_too_few_steps_says_how_many(self) -> None:
        rng = random.Random(0)
        got = capacity(Pool.DECODE, stats("decode", decodes(rng, 20, range(1, 9)), rng))
        assert got.tau_decode_s is None
        assert got.unknown == f"20 engine steps seen, {MIN_STEPS:.0f} needed"

    def test_one_single_width_does_not_tell_the_cost_of_128(self) -> None:
        rng = random.Random(0)
        got = capacity(Pool.DECODE, stats("decode", decodes(rng, 2000, [2]), rng))
        assert got.tau_decode_s is None
        assert got.unknown
        assert "too alike" in got.unknown

    def test_a_width_near_the_one_seen_is_told(self) -> None:
        rng = random.Random(0)
        limits = replace(LIMITS, max_seqs=20)
        steps = stats("decode", decodes(rng, 2000, [18]), rng)
        got = pool_capacity(seen(Pool.DECODE, steps, limits=limits), 0.5, None)
        assert got.learned is not None
        assert got.learned.context_tokens is not None
        truth = true_seconds(decode_step(20, TILE, got.learned.context_tokens)) / 20
        assert got.tau_decode_s == pytest.approx(truth, rel=0.10)

    def test_prefill_pool_without_a_prefill_step(self) -> None:
        rng = random.Random(0)
        got = capacity(Pool.PREFILL, stats("decode", decodes(rng, 500, range(1, 60)), rng))
        assert got.tau_prefill_s is None
        assert got.unknown
        assert "no prefill step" in got.unknown

    def test_no_limits_reported(self) -> None:
        rng = random.Random(0)
        pool = seen(Pool.DECODE, stats("decode", decodes(rng, 500, range(1, 60)), rng), limits=None)
        assert "limits" in (pool_capacity(pool, 0.1, None).unknown or "")

    def test_nothing_at_all(self) -> None:
        assert capacity(Pool.DECODE).unknown == "0 engine steps seen, 50 needed"


class TestMemory:
    def test_an_idle_window_uses_what_was_learned(self) -> None:
        rng = random.Random(0)
        before = capacity(Pool.DECODE, stats("decode", decodes(rng, 1500, range(1, 90)), rng))
        after = capacity(Pool.DECODE, remembered=before.learned)
        assert after.tau_decode_s == pytest.approx(before.tau_decode_s)

    def test_steps_of_one_width_keep_the_remembered_slope(self) -> None:
        rng = random.Random(0)
        before = capacity(Pool.DECODE, stats("decode", decodes(rng, 1500, range(1, 90)), rng))
        after = capacity(Pool.DECODE, stats("decode", decodes(rng, 2000, [2]), rng), remembered=before.learned)
        assert before.tau_decode_s is not None
        assert after.tau_decode_s == pytest.approx(before.tau_decode_s, rel=0.10)

    def test_a_faster_engine_is_relearned_at_once(self) -> None:
        rng = random.Random(0)
        slow = Learned(theta=tuple(2 * t for t in THETA), attention_per_token=None, context_tokens=900.0)
        got = capacity(Pool.DECODE, stats("decode", decodes(rng, 1500, range(4, 90)), rng), remembered=slow)
        assert got.learned is not None
        assert got.learned.context_tokens is not None
        truth = true_seconds(decode_step(TILE, TILE, got.learned.context_tokens)) / TILE
        assert got.tau_decode_s == pytest.approx(truth, rel=0.05)

    def test_an_unknown_fit_is_not_remembered(self) -> None:
        rng = random.Random(0)
        assert capacity(Pool.DECODE, stats("decode", decodes(rng, 2000, [2]), rng)).learned is None


positive = st.floats(0.1, 10.0)


@given(
    rows=st.lists(st.tuples(positive, positive, positive), min_size=4, max_size=8),
    target=st.lists(st.floats(-5.0, 5.0), min_size=8, max_size=8),
)
def test_non_negative_meets_the_optimality_conditions(rows: list[tuple[float, ...]], target: list[float]) -> None:
    """Karush-Kuhn-Tucker: t >= 0, gradient >= 0, and one of the two is zero for each coefficient."""
    a = [[sum(r[i] * r[j] for r in rows) + (0.01 if i == j else 0.0) for j in range(3)] for i in range(3)]
    b = [sum(r[i] * y for r, y in zip(rows, target, strict=False)) for i in range(3)]
    t = least_squares.non_negative(a, b)
    gradient: Callable[[int], float] = lambda i: sum(a[i][j] * t[j] for j in range(3)) - b[i]  # noqa: E731
    assert all(v >= 0.0 for v in t)
    for i in range(3):
        assert gradient(i) >= -1e-6
        assert abs(gradient(i)) < 1e-6 or t[i] == 0.0


def test_solve_exchanges_rows() -> None:
    assert least_squares.solve([[0.0, 2.0], [1.0, 1.0]], [4.0, 5.0]) == pytest.approx([3.0, 2.0])


def test_absent_feature_costs_nothing_and_makes_no_prediction() -> None:
    rng = random.Random(0)
    rows = [prefill_step(rng.randint(1, 500), 0) for _ in range(300)]
    s = stats("prefill", rows, rng)
    sums = least_squares.from_triangle(s.steps, s.seconds, s.xx, s.xy, len(THETA))
    fit = least_squares.fit(sums, noise=0.1, trust=1.0, most=400.0)
    assert fit.theta[DECODES] == 0.0
    assert fit.error(decode_step(4, TILE, 100.0)) == math.inf
