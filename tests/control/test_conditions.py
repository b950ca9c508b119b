"""Conditions by table: facts in, status and reason out; and when a transition time moves."""

from dataclasses import replace
from typing import Any

import pytest

from llmservice_api.resource import LLMService, parse
from llmservice_api.status import CONDITION_TYPES, Condition
from llmservice_core.model import Attainment, ClassTraffic, Observation, Plan, Pool, PoolPlan, PoolSeen, Reason
from llmservice_operator.conditions import report
from llmservice_operator.facts import Facts
from tests.control.bad_manifests import GOOD

SERVICE = parse({**GOOD, "metadata": {"name": "chat", "generation": 7}})


def with_keys(secret: str) -> LLMService:
    spec = {**GOOD["spec"], "router": {"access": {"apiKeysSecret": secret}}}
    return parse({**GOOD, "metadata": {"name": "chat", "namespace": "ns"}, "spec": spec})


def seen(pool: Pool, ready: int = 1, unschedulable: int = 0, unscraped: int = 0) -> PoolSeen:
    return PoolSeen(
        pool=pool, desired=1, ready=ready, starting=0, draining=0, unschedulable=unschedulable, unscraped=unscraped
    )


def traffic(name: str = "interactive", ttft: float | None = None, tbt: float | None = None) -> ClassTraffic:
    def attainment(share: float | None) -> Attainment | None:
        return None if share is None else Attainment(target_s=0.5, events=100, good=share)

    return ClassTraffic(
        name=name,
        arrivals_rps=1.0,
        prompt_tokens=None,
        output_tokens=None,
        ttft=attainment(ttft),
        tbt=attainment(tbt),
    )


def observation(*classes: ClassTraffic, problem: str | None = None) -> Observation:
    return Observation(
        time_s=0.0,
        newest_sample_s=0.0,
        scrape_gap_s=5.0,
        window_s=60.0,
        classes=classes,
        pools=(),
        waiting_prompt_tokens=None,
        start_up_s=None,
        problem=problem,
    )


def plan(reason: Reason, message: str = "because") -> Plan:
    pools = tuple(PoolPlan(pool=p, replicas=1, reason=reason, message=message) for p in (Pool.PREFILL, Pool.DECODE))
    return Plan(time_s=0.0, pools=pools, reason=reason, message=message)


def facts(**changes: Any) -> Facts:
    well = Facts(
        service=SERVICE,
        now_s=1000.0,
        pools=(seen(Pool.PREFILL), seen(Pool.DECODE)),
        sizes={Pool.PREFILL: 1, Pool.DECODE: 1},
        router_ready=1,
        revision="abc",
        rolling_out=False,
        observation=observation(traffic(ttft=96, tbt=99.5)),
        plan=plan(Reason.STEADY),
    )
    return replace(well, **changes)


MISSING = observation(problem="Prometheus is away")
DECODE_SILENT = replace(observation(), pools=(seen(Pool.PREFILL, 2), seen(Pool.DECODE, 3, unscraped=2)))
ROUTER_SILENT = replace(observation(), unscraped_routers=1)
HALF_BLIND = replace(
    plan(Reason.DEMAND_DOWN),
    pools=(
        PoolPlan(pool=Pool.PREFILL, replicas=1, reason=Reason.DEMAND_DOWN, message="2 -> 1: less"),
        PoolPlan(pool=Pool.DECODE, replicas=1, reason=Reason.METRICS_MISSING, message="1: not seen"),
    ),
)
GUARDED = {"service": with_keys("chat-keys")}
BARE, UNREADY = {**GUARDED, "routers_bare": 1}, {**GUARDED, "routers_unready": 2}
SLEEPY = parse(
    {
        "metadata": {"name": "chat", "generation": 7},
        "spec": {
            **GOOD["spec"],
            "pools": {p: {**pool, "minReplicas": 0} for p, pool in GOOD["spec"]["pools"].items()},
        },
    }
)
NONE_READY = (seen(Pool.PREFILL, 0), seen(Pool.DECODE, 0))
ASLEEP = {"service": SLEEPY, "pools": NONE_READY, "sizes": {Pool.PREFILL: 0, Pool.DECODE: 0}}
TABLE = [
    ("asleep", ASLEEP, "Asleep", "True", "ScaledToZero"),
    ("asleep, a router holds requests", ASLEEP, "Ready", "True", "ScaledToZero"),
    ("asleep, nobody holds them", {**ASLEEP, "router_ready": 0}, "Ready", "False", "EnginesNotReady"),
    ("awake", {"service": SLEEPY}, "Asleep", "False", "Awake"),
    ("a minimum of one", {}, "Asleep", "False", "NeverSleeps"),
    (
        "sizes of 0 that a person set",
        {"sizes": ASLEEP["sizes"], "pools": NONE_READY},
        "Ready",
        "False",
        "EnginesNotReady",
    ),
    ("one revision", {}, "Progressing", "False", "Settled"),
    ("a new revision starts", {"rolling_out": True}, "Progressing", "True", "RollingOut"),
    ("a ready engine in each pool and a router", {}, "Ready", "True", "Serving"),
    ("no decode engine", {"pools": (seen(Pool.PREFILL), seen(Pool.DECODE, 0))}, "Ready", "False", "EnginesNotReady"),
    ("nothing there yet", {"pools": ()}, "Ready", "False", "EnginesNotReady"),
    ("no router", {"router_ready": 0}, "Ready", "False", "RouterNotReady"),
    ("fresh metrics", {}, "MetricsAvailable", "True", "MetricsFresh"),
    ("mode Off", {"observation": None, "plan": None}, "MetricsAvailable", "Unknown", "NotAsked"),
    (
        "Prometheus away",
        {"observation": MISSING, "plan": plan(Reason.METRICS_MISSING)},
        "MetricsAvailable",
        "False",
        "MetricsMissing",
    ),
    ("old samples", {"plan": plan(Reason.METRICS_STALE)}, "MetricsAvailable", "False", "MetricsStale"),
    (
        "old samples of some",
        {"observation": DECODE_SILENT, "plan": plan(Reason.METRICS_STALE)},
        "MetricsAvailable",
        "False",
        "MetricsStale",
    ),
    ("engines unscraped", {"observation": DECODE_SILENT}, "MetricsAvailable", "False", "MetricsMissing"),
    ("a router unscraped", {"observation": ROUTER_SILENT}, "MetricsAvailable", "False", "MetricsMissing"),
    ("one pool held for want of them", {"plan": HALF_BLIND}, "MetricsAvailable", "False", "MetricsMissing"),
    ("targets met", {}, "SLOMet", "True", "TargetsMet"),
    ("exactly the percentile", {"observation": observation(traffic(ttft=95))}, "SLOMet", "True", "TargetsMet"),
    ("TTFT missed", {"observation": observation(traffic(ttft=94.9))}, "SLOMet", "False", "TargetMissed"),
    ("TBT missed", {"observation": observation(traffic(ttft=99, tbt=98))}, "SLOMet", "False", "TargetMissed"),
    ("no traffic", {"observation": observation(traffic())}, "SLOMet", "Unknown", "NoTraffic"),
    ("nothing observed", {"observation": None}, "SLOMet", "Unknown", "NoTraffic"),
    ("budget spent", {"plan": plan(Reason.BUDGET_LIMITED)}, "BudgetLimited", "True", "BudgetLimited"),
    ("budget left", {}, "BudgetLimited", "False", "WithinBudget"),
    ("all well", {}, "Degraded", "False", "AsWanted"),
    ("a pass failed", {"problem": ("Misconfigured", "fix it")}, "Degraded", "True", "Misconfigured"),
    (
        "pods without a node",
        {"pools": (seen(Pool.PREFILL), seen(Pool.DECODE, unschedulable=2))},
        "Degraded",
        "True",
        "Unschedulable",
    ),
    ("routers without their Secret", BARE, "Degraded", "True", "ApiKeysMissing"),
    ("routers without good keys", {**UNREADY, "router_ready": 0}, "Degraded", "True", "ApiKeysMissing"),
    ("a router that starts beside a good one", UNREADY, "Degraded", "False", "AsWanted"),
    ("open routers without volumes", {"routers_bare": 1}, "Degraded", "False", "AsWanted"),
    ("keys in force", GUARDED, "Ready", "True", "Serving"),
]


def test_an_open_service_says_so_and_a_guarded_one_does_not() -> None:
    assert "open: whoever reaches the routers may use them" in the("Ready", report([], facts())).message
    assert "open" not in the("Ready", report([], facts(**GUARDED))).message


@pytest.mark.parametrize("changes", [BARE, {**UNREADY, "router_ready": 0}])
def test_missing_keys_say_which_secret_where(changes: dict[str, Any]) -> None:
    message = the("Degraded", report([], facts(**changes))).message
    assert "Secret chat-keys" in message
    assert "docs/access.md" in message


def the(kind: str, found: list[Condition]) -> Condition:
    (one,) = [c for c in found if c.type == kind]
    return one


@pytest.mark.parametrize(("changes", "kind", "status", "reason"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE])
def test_facts_to_condition(changes: dict[str, Any], kind: str, status: str, reason: str) -> None:
    found = the(kind, report([], facts(**changes)))
    assert (found.status, found.reason) == (status, reason)


def test_all_conditions_are_always_there_for_the_generation_seen() -> None:
    found = report([], facts())
    assert tuple(c.type for c in found) == CONDITION_TYPES
    assert {c.observed_generation for c in found} == {7}


@pytest.mark.parametrize(
    ("observed", "sentence"),
    [
        (
            DECODE_SILENT,
            "Prometheus has no recent sample of 2 of 3 Ready decode engines: does it scrape port 9400 of engines?",
        ),
        (
            replace(DECODE_SILENT, unscraped_routers=1),
            "Prometheus has no recent sample of 2 of 3 Ready decode engines and 1 of the Ready routers:"
            " does it scrape port 9400 of engines and 9401 of routers?",
        ),
    ],
)
def test_who_is_not_scraped_is_named(observed: Observation, sentence: str) -> None:
    assert the("MetricsAvailable", report([], facts(observation=observed))).message == sentence


def test_the_message_of_a_miss_says_by_how_much() -> None:
    found = the("SLOMet", report([], facts(observation=observation(traffic(ttft=90)))))
    assert found.message == "interactive: 90.0 % instead of 95 % within TTFT 0.5 s"


def test_it_wakes_until_every_pool_has_an_engine_and_a_later_crash_is_no_waking() -> None:
    asleep = report([], facts(**ASLEEP))
    half = {"service": SLEEPY, "pools": (seen(Pool.PREFILL), seen(Pool.DECODE, 0)), "now_s": 2000.0}
    waking = report(asleep, facts(**half))
    again = report(waking, facts(**{**half, "now_s": 3000.0}))
    assert (the("Asleep", again).status, the("Asleep", again).reason) == ("False", "Waking")
    assert "the first decode engine" in the("Asleep", again).message
    assert the("Asleep", again).last_transition_time == "1970-01-01T00:33:20Z", "since when"
    awake = report(again, facts(service=SLEEPY))
    crashed = report(awake, facts(**half))
    assert [the("Asleep", c).reason for c in (awake, crashed)] == ["Awake", "Awake"]


def test_the_transition_time_moves_on_a_flip_only() -> None:
    first = report([], facts())
    same = report(first, facts(now_s=2000.0, plan=plan(Reason.DEMAND_UP)))
    assert [c.last_transition_time for c in same] == [c.last_transition_time for c in first]
    flipped = report(first, facts(now_s=2000.0, router_ready=0))
    assert the("Ready", flipped).last_transition_time != the("Ready", first).last_transition_time
    assert the("Degraded", flipped).last_transition_time == the("Degraded", first).last_transition_time
