"""The order of the policies that docs/routing.md tells of: one seed, the router's own rules in virtual time."""

from itertools import pairwise

from bench.router import admission, affinity, fairness, routing
from llmservice_core.picking import UNBOUNDED, Policy, Room

GPU, ENGINES = "h100-llama-3.1-8b", 4


def row(data: str, cache: int, room: Room, policy: Policy) -> routing.Row:
    return routing.measured((data, 0.9, cache, room, policy), GPU, ENGINES, 1)


def test_where_prompts_wait_in_the_engines_the_shortest_queue_is_best_and_random_worst() -> None:
    by = {p: row("ShareGPT", 0, UNBOUNDED, p).ttft_p95_s for p in (Policy.SHORTEST_QUEUE, Policy.POWER_OF_TWO)}
    random = row("ShareGPT", 0, UNBOUNDED, Policy.RANDOM).ttft_p95_s
    assert by[Policy.SHORTEST_QUEUE] < by[Policy.POWER_OF_TWO] < random
    assert row("ShareGPT", 0, routing.TWO_STEPS, Policy.RANDOM).ttft_p95_s < 0.7 * random


def test_prefix_affinity_finds_more_where_caches_keep_more() -> None:
    hits = {p: row("Mooncake", 4_000_000, routing.TWO_STEPS, p).hit_rate for p in Policy}
    assert hits[Policy.PREFIX_AFFINITY] > 1.6 * hits[Policy.SHORTEST_QUEUE]
    assert hits[Policy.SESSION] > 1.4 * hits[Policy.RANDOM]


def test_refusing_late_requests_leaves_hardly_any_late() -> None:
    never, late = (admission.measured(1.2, shed, GPU, ENGINES) for shed in ("Never", "Late"))
    assert late.chat_late < 0.2 * never.chat_late
    assert late.chat_on_time >= never.chat_on_time
    assert late.error_p50_s < 0.1


def test_prompts_for_real_engines_begin_alike_where_the_trace_does_and_fit() -> None:
    todo = affinity.prompts(60, 0.7)
    assert max(len(p.tokens) for p in todo) <= affinity.MOST_BLOCKS * affinity.TINY_BLOCK
    for a, b in pairwise(todo):
        shared = next((i for i, (x, y) in enumerate(zip(a.hashes, b.hashes, strict=False)) if x != y), 0)
        alike = min(shared * affinity.TINY_BLOCK, len(a.tokens), len(b.tokens))
        assert a.tokens[:alike] == b.tokens[:alike]
        assert a.tokens[: alike + affinity.TINY_BLOCK] != b.tokens[: alike + affinity.TINY_BLOCK]


def test_affinity_is_predicted_to_find_more_than_chance() -> None:
    todo = affinity.prompts(300, 0.7)
    assert affinity.predicted(todo, Policy.PREFIX_AFFINITY) > 1.08 * affinity.predicted(todo, Policy.RANDOM) > 0.05


def test_both_tenants_together_ask_for_the_load() -> None:
    """In work: 20 times the quiet one's and its own, on the paced card."""
    rate_rps = fairness.quiet_rps(4, 1.2)
    made = fairness.asks(rate_rps * 21, 600, 1)
    work_s = sum(fairness.prefill_s(fairness.step_model(fairness.GPU), 8 * len(a.prompt)) for a in made)
    assert 0.95 < work_s / (4 * 600 * 1.2) < 1.05
    assert made == fairness.asks(rate_rps * 21, 600, 1)
