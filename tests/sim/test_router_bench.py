"""The order of the policies that docs/routing.md tells of: one seed, the router's own rules in virtual time."""

from bench.router import admission, routing
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
