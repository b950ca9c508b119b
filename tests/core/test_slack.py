"""Decode slack takes prefill: the router's choice by a table, the plan's number and what it spares by examples."""

import math
from dataclasses import replace
from typing import Any

import pytest

from llmservice_core.model import Attainment, Plan, Pool, StepStats
from llmservice_core.picking import Policy, Room
from llmservice_core.planner import plan
from llmservice_core.planner_facts import Settings
from llmservice_core.routing import Endpoint, NoRoute, Route, RouteReason, choose
from llmservice_core.slack import CHUNK, SHARE, TAKEN, Slack, slack_of
from llmservice_core.token_budget import AIM
from tests.core.test_planner import INTERACTIVE, LEARNED, decide, goal, memory, observation, seen, traffic

P, D = Pool.PREFILL, Pool.DECODE
HALF = Slack(share=0.5)


def engine(name: str, prompt_tokens: float = 0.0, work: float = 0.0, *, ready: bool = True) -> Endpoint:
    pool = {"p": P, "d": D}[name[0]]
    return Endpoint(
        name=name,
        url="",
        pool=pool,
        ready=ready,
        work_tokens=work or prompt_tokens,
        prompts=int(prompt_tokens > 0),
        prompt_tokens=prompt_tokens,
    )


CASES: dict[str, tuple[list[Endpoint], float, dict[str, Any], str]] = {
    "an idle prefill engine is sooner": ([engine("p1"), engine("d1")], 400, {}, "p1 d1"),
    "400 / .5 = 800 here, 300 + 400 there": ([engine("p1", 300), engine("d1")], 400, {}, "p1 d1"),
    "400 / .5 = 800 here, 500 + 400 there": ([engine("p1", 500), engine("d1")], 400, {}, "- d1"),
    "a slower decode engine": ([engine("p1", 500), engine("d1")], 400, {"slack": Slack(share=0.4)}, "p1 d1"),
    "no slack": ([engine("p1", 9000), engine("d1")], 400, {"slack": None}, "p1 d1"),
    "the shorter of two queues counts": ([engine("p1", 9000), engine("p2", 100), engine("d1")], 400, {}, "p2 d1"),
    "the decode engine without a prompt": ([engine("p1", 9000), engine("d1", 500), engine("d2")], 400, {}, "- d2"),
    "the one with less work": ([engine("p1", 9000), engine("d1", work=9), engine("d2", work=3)], 400, {}, "- d2"),
    "longer than it may be": ([engine("p1", 9000), engine("d1")], 2049, {}, "p1 d1"),
    "as long as it may be": ([engine("p1", 9000), engine("d1")], 2048, {}, "- d1"),
    "beside what it holds already": ([engine("p1", 9000), engine("d1", 1500)], 600, {}, "p1 d1"),
    "no prefill engine at all": ([engine("d1")], 400, {}, "NoEndpoint"),
    "a decode engine that is not ready": ([engine("p1", 9000), engine("d1", ready=False)], 400, {}, "NoEndpoint"),
    "what the cache saves": ([engine("p1", 500), engine("d1")], 400, {"saved": {"p1": 300.0}}, "p1 d1"),
    "prefill engines without room": (
        [engine("p1", 5000), engine("d1")],
        400,
        {"room": Room(tokens=4096)},
        "- d1",
    ),
    "and a prompt that is too long waits": (
        [engine("p1", 5000), engine("d1")],
        4000,
        {"room": Room(tokens=4096)},
        "Full",
    ),
    "random routing stays random": ([engine("p1", 9000), engine("d1")], 400, {"policy": Policy.RANDOM}, "p1 d1"),
}


@pytest.mark.parametrize("case", CASES)
def test_where_a_prompt_goes(case: str) -> None:
    fleet, tokens, more, expected = CASES[case]
    route = choose(fleet, **{"slack": HALF, "prompt_tokens": tokens, **more})
    if isinstance(route, NoRoute):
        assert route.reason.value == expected
        return
    assert f"{route.prefill.name if route.prefill else '-'} {route.decode.name}" == expected


def test_the_reason_is_its_own() -> None:
    route = choose([engine("p1", 9000), engine("d1")], slack=HALF, prompt_tokens=100)
    assert isinstance(route, Route)
    assert route.reason is RouteReason.DECODE_SLACK


def test_a_prompt_of_unknown_length_goes_nowhere_else() -> None:
    route = choose([engine("p1", 9000), engine("d1")], slack=HALF, prompt_tokens=math.inf)
    assert isinstance(route, Route)
    assert route.prefill is not None


@pytest.mark.parametrize("capacity", [{}, {SHARE: None}, {SHARE: 0.0}, {SHARE: "a lot"}])
def test_a_plan_that_says_nothing_gives_no_slack(capacity: dict[str, Any]) -> None:
    assert slack_of(capacity) is None


LONG = replace(LEARNED, attention_per_token=0.0005)
"""E[v^2] / E[v] = 1,000 tokens, so prompts of 500 in the mean are spread exponentially."""


def planned(*pools: Any, rps: float = 10.0, settings: Settings | None = None, **changes: Any) -> Plan:
    classes = changes.pop("classes", (traffic("interactive", 0.0), traffic("batch", rps, 500.0, 100.0)))
    known = memory(learned={P: LONG, D: LEARNED})
    observed = observation(*(pools or (seen(P, 2), seen(D, 1))), classes=classes, **changes)
    return plan(goal(decode_takes_prefill=True), observed, known, settings=settings or Settings())[0]


class TestPlan:
    def test_the_number_and_how_it_comes_about(self) -> None:
        """1,000 output tokens/s x 42.5 ms = 42.5 decode at once: 10 ms + 42.5 x .43 ms. Until mixed steps were seen a
        prefill step is added, of 10 ms + 30 us a token: beside 43 decodes (28.49 ms) 134 tokens fit into 42.5 ms."""
        got = planned()
        chunk = (AIM * 0.05 - 0.01 - 0.00043 * 43 - 0.01) / 0.00003
        assert got.capacity[CHUNK] == pytest.approx(chunk, rel=0.01)
        assert got.capacity[SHARE] == pytest.approx(chunk / 0.0425 * (0.01 + 0.03 * 0.512) / 512, rel=0.01)

    def test_prefill_is_spared_what_half_of_it_takes(self) -> None:
        with_it, without = planned(), planned(settings=Settings(slack=False))
        sizes = {s.name: s.sizes for s in with_it.steps}
        assert SHARE not in without.capacity
        spared = sizes["feedback"][P] - sizes["slack"][P]
        assert 0.0 < spared <= 0.5 * (with_it.capacity[SHARE] or 0.0) + 1e-3
        assert sizes["slack"][D] == sizes["feedback"][D]
        (why,) = [s.why for s in with_it.steps if s.name == "slack"]
        assert "replicas spared" in why

    def test_long_prompts_spare_nothing(self) -> None:
        """Of 8,000 tokens each next to none may go to a decode engine."""
        got = planned(classes=(traffic("interactive", 0.0), traffic("batch", 1.0, 8000.0, 100.0)))
        sizes = {s.name: s.sizes for s in got.steps}
        assert sizes["feedback"][P] - sizes["slack"][P] < 0.05

    def test_who_did_not_ask_gets_none(self) -> None:
        got, _ = decide(observation(rps=10.0))
        assert SHARE not in got.capacity
        assert "slack" not in {s.name for s in got.steps}

    @pytest.mark.parametrize(
        ("pools", "changes", "why"),
        [
            pytest.param((seen(P, 2), seen(D, 1, ready=0, starting=1)), {}, "none is Ready", id="none serves"),
            pytest.param((seen(P, 2), seen(D, 1, waiting=9.0)), {}, "make wait", id="requests wait for decode"),
            pytest.param((seen(P, 2), seen(D, 1)), {"rps": 25.0}, "would decode in each", id="full"),
            pytest.param((seen(P, 2), seen(D, 1)), {"rps": 15.0}, "no time for prompts", id="busy"),
        ],
    )
    def test_no_slack_and_why(self, pools: Any, changes: dict[str, Any], why: str) -> None:
        got = planned(*pools, **changes)
        assert not got.capacity[SHARE]
        assert why in next(s.why for s in got.steps if s.name == "slack")

    def test_none_while_gaps_are_late(self) -> None:
        late = Attainment(target_s=INTERACTIVE.tbt.target_s, events=1000.0, good=900.0)
        got = planned(classes=(replace(traffic("interactive", 1.0, 500.0, 100.0), tbt=late), traffic("batch", 5.0)))
        assert not got.capacity[SHARE]

    def test_what_was_taken_is_measured(self) -> None:
        """100 mixed steps of 256 prompt tokens and 10 decodes on the decode pool, 100 of 512 on the prefill pool."""
        prefill = stats("prefill", 100.0, 512.0, 0.0)
        decode = stats("mixed", 100.0, 256.0, 10.0)
        got = planned(seen(P, 2, recent_steps=(prefill,)), seen(D, 1, recent_steps=(decode,)))
        assert got.capacity[TAKEN] == pytest.approx(1 / 3)
        assert got.load is not None
        assert got.load == pytest.approx(max((got.inputs["prefill.work"] or 0.0) / 3, got.inputs["decode.work"] or 0.0))


def stats(kind: str, steps: float, prompt: float, decodes: float) -> StepStats:
    xx = {(0, 0): steps, (0, 2): steps * (prompt + decodes) / 1000, (0, 4): steps * decodes}
    return StepStats(kind=kind, steps=steps, seconds=1.0, xx=xx, xy={})
