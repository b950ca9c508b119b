"""Services whose pools may be empty: put to sleep by what is known only, woken by one request. No mocks."""

from dataclasses import replace
from typing import Any

import pytest

from llmservice_core.model import Calls, Goal, Observation, Plan, Pool, Reason
from llmservice_core.planner_memory import Memory
from tests.core.test_planner import NOW, decide, goal, memory, observation, pool_goal, seen, traffic

PAIR = (Pool.PREFILL, Pool.DECODE)
QUIET = Calls(quiet_s=400.0, last_s=400.0, waiting=0)
FRESH = {"recent_window_s": 10.0}


def sleepy(*pools: Pool, low: int = 0) -> Goal:
    return goal(pools=tuple(pool_goal(p, low) for p in pools or PAIR))


def silent(sizes: tuple[int, int] = (1, 1), calls: Calls | None = QUIET, **changes: Any) -> Observation:
    """No arrival in either window; as many engines as wanted, all idle."""
    classes = tuple(replace(traffic(name, 0.0), recent_rps=0.0) for name in ("interactive", "batch"))
    pools = (seen(p, size) for p, size in zip(PAIR, sizes, strict=True))
    return observation(*pools, **{"classes": classes, "calls": calls, **FRESH, **changes})


def sizes(plan: Plan) -> tuple[int, ...]:
    return tuple(p.replicas for p in plan.pools)


def test_after_the_idle_time_both_pools_are_empty_and_the_record_says_why() -> None:
    plan, _ = decide(silent((2, 3)), sleepy())
    assert sizes(plan) == (0, 0)
    assert plan.reason is Reason.SCALED_TO_ZERO
    assert plan.message.startswith("prefill 2 -> 0: no request for 400 s")
    assert [step.why for step in plan.steps if step.name == "sleep"] == ["no request for 400 s"]


def test_the_idle_time_is_its_own_stabilisation() -> None:
    """What was wanted a moment ago does not keep an engine that nobody has asked for five minutes."""
    plan, _ = decide(silent(), sleepy(), memory(wants={Pool.DECODE: ((NOW - 10.0, 2),)}))
    assert sizes(plan) == (0, 0)


AWAKE = [
    ("not long enough", {"calls": Calls(quiet_s=299.0, last_s=299.0, waiting=0)}, "sleeps after 300 s"),
    ("a router that started lately", {"calls": Calls(quiet_s=5.0, last_s=None, waiting=0)}, "no request for 5 s"),
    ("a router that does not answer", {"calls": None}, "did not say"),
    ("no Prometheus", {"problem": "gone"}, "metrics are missing or old"),
    ("old samples", {"newest_sample_s": NOW - 900.0}, "metrics are missing or old"),
    ("a router that is not scraped", {"unscraped_routers": 1}, "not every router"),
    ("waiting prompts unknown", {"waiting_prompt_tokens": None}, "not every router"),
    ("arrivals unknown", {"classes": (traffic("interactive", 0.0), traffic("batch", 0.0))}, "does not know"),
    ("an engine that is not scraped", {"pools": (seen(Pool.PREFILL), seen(Pool.DECODE, unscraped=1))}, "not scraped"),
    ("decodes unknown", {"pools": (seen(Pool.PREFILL), seen(Pool.DECODE, running_decodes=None))}, "no engine says"),
]


@pytest.mark.parametrize(("changes", "words"), [row[1:] for row in AWAKE], ids=[row[0] for row in AWAKE])
def test_what_is_unknown_keeps_a_service_awake(changes: dict[str, Any], words: str) -> None:
    plan, _ = decide(silent(**changes), sleepy())
    assert sizes(plan) == (1, 1)
    (why,) = [step.why for step in plan.steps if step.name == "sleep"]
    assert why.startswith("awake: ")
    assert words in why


def test_a_minimum_of_one_never_sleeps() -> None:
    plan, _ = decide(silent(), sleepy(low=1))
    assert sizes(plan) == (1, 1)
    assert "sleep" not in {step.name for step in plan.steps}


def test_one_pool_alone_is_never_empty() -> None:
    pools = (pool_goal(Pool.PREFILL, 0), pool_goal(Pool.DECODE, 1))
    assert sizes(decide(silent(), goal(pools=pools))[0]) == (1, 1)


CALLED = [
    ("a request waits", Calls(quiet_s=0.0, last_s=0.0, waiting=2), {}, "2 requests wait in the routers"),
    ("one came and left again", Calls(quiet_s=7.0, last_s=7.0, waiting=0), {}, "a request came 7 s ago"),
    ("without Prometheus", Calls(quiet_s=0.0, last_s=0.0, waiting=1), {"problem": "gone"}, "1 requests wait"),
    ("Prometheus counts arrivals", None, {"classes": (replace(traffic("batch", 1.0), recent_rps=2.0),)}, "2.00 req/s"),
    ("Prometheus sees prompts wait", None, {"waiting_prompt_tokens": 70.0}, "0.00 req/s arrive, 70"),
]


@pytest.mark.parametrize(("calls", "changes", "words"), [row[1:] for row in CALLED], ids=[row[0] for row in CALLED])
def test_one_request_wakes_both_pools(calls: Calls | None, changes: dict[str, Any], words: str) -> None:
    plan, _ = decide(silent((0, 0), calls, **changes), sleepy())
    assert sizes(plan) == (1, 1)
    assert plan.reason is Reason.WAKING
    assert all(p.message.startswith(f"0 -> 1: woken: {words}") for p in plan.pools)


@pytest.mark.parametrize(
    ("calls", "changes"),
    [
        (QUIET, {}),
        (Calls(quiet_s=3.0, last_s=None, waiting=0), {}),
        (None, {}),
        (None, {"problem": "gone", "waiting_prompt_tokens": None}),
    ],
    ids=["nobody called", "a router that started lately", "a router does not answer", "nothing is known"],
)
def test_a_service_sleeps_on_while_nobody_is_known_to_call(calls: Calls | None, changes: dict[str, Any]) -> None:
    plan, _ = decide(silent((0, 0), calls, **changes), sleepy())
    assert sizes(plan) == (0, 0)
    assert {p.reason for p in plan.pools} == {Reason.SCALED_TO_ZERO}


def test_the_start_up_time_is_remembered_while_no_pod_shows_it() -> None:
    """The router tells it to clients that are asked to come back."""
    _, known = decide(silent(start_up_s=73.0), sleepy())
    back = Memory.from_json(known.to_json())
    assert back is not None
    plan, again = decide(silent((0, 0), start_up_s=None), sleepy(), back)
    assert plan.inputs["start_up_s"] == 73.0
    assert again.start_up_s == 73.0
