"""The operator's own gauges: what the last plan started from, absent while unknown, gone with the service."""

import re
from dataclasses import replace

import pytest

from llmservice_api.resource import parse
from llmservice_core import metric_names as names
from llmservice_core.model import Observation, Plan, Pool, PoolPlan, Reason
from llmservice_operator import metrics
from tests.control.bad_manifests import GOOD
from tests.control.test_conditions import observation, seen, traffic

SERVICE = parse({**GOOD, "metadata": {"name": "chat", "namespace": "ns", "generation": 1}})
OTHER = parse({**GOOD, "metadata": {"name": "chat2", "namespace": "ns", "generation": 1}})
SEEN = replace(
    observation(traffic("interactive"), replace(traffic("batch"), arrivals_rps=0.0)),
    pools=(seen(Pool.PREFILL, 2), seen(Pool.DECODE, 4)),
)
PLAN = Plan(
    time_s=0.0,
    pools=tuple(PoolPlan(pool=p, replicas=3, reason=Reason.STEADY, message="") for p in (Pool.PREFILL, Pool.DECODE)),
    reason=Reason.STEADY,
    message="",
    inputs={"prefill.work": 1.5, "decode.work": 3.0, "metrics_age_s": 2.5},
    capacity={"prefill.tau_prefill_s": 0.0001, "decode.tau_decode_s": 0.002},
)
UNKNOWN = replace(PLAN, inputs={"prefill.work": None, "decode.work": 3.0, "metrics_age_s": None}, capacity={})


def shown(service: str = "ns/chat") -> dict[str, float]:
    """Series of one service without its label, counters left out."""
    found = {}
    for line in metrics.exposition().decode().splitlines():
        if not line.startswith("#") and f'{names.LLMSERVICE}="{service}"' in line and "_total" not in line:
            series, value = line.rsplit(" ", 1)
            if "_created" not in series:
                labels = re.sub(rf'{names.LLMSERVICE}="[^"]*",?', "", series).replace(",}", "}").replace("{}", "")
                found[labels.removeprefix("llmservice_operator_")] = float(value)
    return found


def decided(observed: Observation = SEEN, plan: Plan = PLAN) -> dict[str, float]:
    metrics.decided(SERVICE, observed, plan)
    return shown()


@pytest.fixture(autouse=True)
def _clean() -> None:
    for service in (SERVICE, OTHER):
        metrics.forget(service.key)


def test_inputs_of_the_last_plan() -> None:
    assert decided() == {
        'desired_replicas{pool="prefill"}': 3.0,
        'desired_replicas{pool="decode"}': 3.0,
        'load_ratio{pool="prefill"}': 0.75,
        'load_ratio{pool="decode"}': 0.75,
        'plan_arrivals_rps{class="interactive"}': 1.0,
        'plan_arrivals_rps{class="batch"}': 0.0,
        'plan_work_replicas{pool="prefill"}': 1.5,
        'plan_work_replicas{pool="decode"}': 3.0,
        'plan_token_seconds{phase="prefill",pool="prefill"}': 0.0001,
        'plan_token_seconds{phase="decode",pool="decode"}': 0.002,
        "plan_metrics_age_seconds": 2.5,
    }


def test_a_mixed_pool_has_both_costs() -> None:
    mixed = PoolPlan(pool=Pool.MIXED, replicas=1, reason=Reason.STEADY, message="")
    costs = {"mixed.tau_prefill_s": 0.0001, "mixed.tau_decode_s": 0.002}
    found = decided(plan=replace(PLAN, pools=(mixed,), inputs={}, capacity=costs))
    assert {k: v for k, v in found.items() if "token_seconds" in k} == {
        'plan_token_seconds{phase="prefill",pool="mixed"}': 0.0001,
        'plan_token_seconds{phase="decode",pool="mixed"}': 0.002,
    }


def test_what_is_unknown_now_is_absent_not_zero_nor_as_before() -> None:
    decided()
    found = decided(replace(SEEN, classes=(replace(traffic("interactive"), arrivals_rps=None),)), UNKNOWN)
    assert {k: v for k, v in found.items() if k.startswith("plan_")} == {'plan_work_replicas{pool="decode"}': 3.0}


def test_a_service_that_goes_takes_its_own_gauges_along() -> None:
    decided()
    metrics.decided(OTHER, SEEN, PLAN)
    metrics.forget(SERVICE.key)
    assert shown() == {}
    assert len(shown(OTHER.key)) == 11
