"""Services without engines, rollouts without GPUs for both revisions, and a revision that crashes: real API server."""

import json
import time
from typing import Any

import pytest

from e2e.cluster.bare import ControlPlane
from e2e.cluster.fake_nodes import Behaviour
from tests.control.support import Api, Operator, eventually, ready, service

pytestmark = [pytest.mark.api, pytest.mark.timeout(600)]

DECODE = {"llmservice.dev/pool": "decode"}
CHANGED = {"spec": {"model": {"maxModelLen": 2048}}}
BACK = {"spec": {"model": {"maxModelLen": None}}}


def least(replicas: int) -> dict[str, Any]:
    return {pool: {"minReplicas": replicas, "maxReplicas": 2} for pool in ("prefill", "decode")}


def reason(api: Api, kind: str) -> str:
    return str(api.condition("chat", kind).get("reason", ""))


def engine_pods(api: Api) -> list[dict[str, Any]]:
    return api.items("pods", "-l", "llmservice.dev/component=engine")


def test_a_service_that_may_sleep_begins_without_engines_and_is_not_put_to_sleep_by_silence(
    running: Operator, api: Api
) -> None:
    """Nobody answers in the router pods of fake nodes: what is not known wakes nobody and puts nobody to sleep."""
    api.create(service(pools=least(0), scaling={"interval": "5s", "idleAfter": "10s", "gpuBudget": 2}))
    eventually(lambda: reason(api, "Ready") == "ScaledToZero")
    assert api.told("chat", "Asleep", "True")
    assert list(api.engines().values()) == [0, 0]
    assert api.row("0/0")
    assert engine_pods(api) == []
    api.patch("llmsvc", "chat", {"spec": {"pools": least(1)}})
    eventually(lambda: list(api.engines().values()) == [1, 1])
    eventually(lambda: reason(api, "Asleep") == "NeverSleeps" and reason(api, "Ready") == "Serving")
    api.patch("llmsvc", "chat", {"spec": {"pools": least(0)}})
    eventually(lambda: reason(api, "Asleep") == "Awake")
    time.sleep(12)
    assert list(api.engines().values()) == [1, 1]
    assert "a router did not say" in json.dumps(api.get("llmsvc", "chat")["status"]["plan"]["steps"])


def test_a_sleeping_service_changes_its_revision_without_a_pod(running: Operator, api: Api) -> None:
    api.create(service(pools=least(0)))
    eventually(lambda: reason(api, "Ready") == "ScaledToZero")
    old = set(api.engines())
    api.patch("llmsvc", "chat", CHANGED)
    eventually(lambda: len(new := set(api.engines())) == 2 and not new & old)
    eventually(lambda: reason(api, "Progressing") == "Settled")
    assert engine_pods(api) == []


def test_a_budget_for_one_pair_is_never_exceeded_by_a_rollout(running: Operator, api: Api) -> None:
    """Nobody answers in pods of fake nodes, so a drain ends at its deadline, which is over at once."""
    scaling = {"interval": "5s", "gpuBudget": 2, "scaleDown": {"drainDeadline": "0s"}}
    api.create(service(pools=least(1), scaling=scaling))
    ready(api)
    old = set(api.engines())
    api.patch("llmsvc", "chat", CHANGED)
    reasons, most = set(), 0
    deadline_s = time.monotonic() + 60
    while set(api.engines()) & old and time.monotonic() < deadline_s:
        reasons.add(reason(api, "Progressing"))
        most = max(most, len(engine_pods(api)))
    eventually(lambda: reason(api, "Progressing") == "Settled" and api.is_ready())
    assert not set(api.engines()) & old
    assert most <= 2
    assert "RolloutPause" in reasons
    (told,) = api.events("RolloutPause")
    assert "scaling.gpuBudget do not hold both" in told


def test_a_crash_is_told_of_with_its_pod_and_the_old_spec_goes_back_at_once(
    running: Operator, api: Api, plane: ControlPlane
) -> None:
    api.create(service())
    before = ready(api)
    served = {p["metadata"]["uid"] for p in engine_pods(api)}
    plane.nodes.behave(DECODE, Behaviour(ready_s=None))
    try:
        api.patch("llmsvc", "chat", CHANGED)
        fresh = eventually(lambda: [p for p in engine_pods(api) if p["metadata"]["uid"] not in served and runs(p)])
        victim = next(p["metadata"]["name"] for p in fresh if "-decode-" in p["metadata"]["name"])
        plane.nodes.crash(api.namespace, victim)
        told = eventually(lambda: api.told("chat", "Degraded", "True"))
        assert told["reason"] == "EngineCrashed"
        assert f"decode pod {victim} of revision" in told["message"]
        assert "exit code 1 (Error)" in told["message"]
        assert "its log cannot be read" in told["message"], "fake nodes have no logs"
        assert "forbidden" not in told["message"], "the right to read them is there"
        assert "the earlier revision serves on" in told["message"]
        assert reason(api, "Progressing") == "RolloutStopped"
        assert api.is_ready()
        api.patch("llmsvc", "chat", BACK)
        eventually(lambda: api.children() == before)
        eventually(lambda: api.told("chat", "Degraded", "False"))
        assert {p["metadata"]["uid"] for p in engine_pods(api)} == served
    finally:
        plane.nodes.behave(DECODE, Behaviour())


def runs(pod: dict[str, Any]) -> bool:
    return "-decode-" in pod["metadata"]["name"] and pod["status"].get("phase") == "Running"
