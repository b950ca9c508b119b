"""What people and machines do to a running service: pods killed, children edited, operator or Prometheus away."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from e2e import install, kube
from e2e.chain import services
from llmservice_core import contract

pytestmark = pytest.mark.cluster
HOLD_S = 45.0
"""Longer than the time that a smaller size must have been right here (start-up time, 30 s at least)."""


def ask(url: str) -> str:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=60, max_retries=0)
    return (
        client.completions.create(model="tiny", prompt="hello there " * 5, max_tokens=6, temperature=0).choices[0].text
    )


@contextmanager
def away(namespace: str, deployment: str) -> Iterator[None]:
    """The deployment at zero replicas for a while, back and Ready afterwards."""
    kube.kubectl("-n", namespace, "scale", f"deployment/{deployment}", "--replicas=0")
    kube.kubectl("-n", namespace, "rollout", "status", f"deployment/{deployment}", "--timeout=60s")
    try:
        yield
    finally:
        kube.kubectl("-n", namespace, "scale", f"deployment/{deployment}", "--replicas=1")
        kube.kubectl("-n", namespace, "rollout", "status", f"deployment/{deployment}", "--timeout=120s")


def engines(namespace: str) -> dict[str, Any]:
    found = kube.get("-n", namespace, "deployments", "-l", f"{contract.LABEL_NAME}=tiny")["items"]
    return {d["metadata"]["labels"].get(contract.LABEL_POOL, "router"): d for d in found}


def eventually(what: str, predicate: Callable[[], Any], timeout_s: float = 60) -> None:
    kube.wait_for(what, predicate, timeout_s)


def ready(namespace: str, **labels: str) -> list[str]:
    return [p["metadata"]["name"] for p in kube.pods(namespace, "tiny", **labels) if kube.is_ready(p)]


@pytest.mark.parametrize(
    "labels", [{"pool": "prefill"}, {"pool": "decode"}, {"component": contract.COMPONENT_ROUTER}], ids=str
)
def test_a_killed_pod_comes_back_and_answers(url: str, namespace: str, labels: dict[str, str]) -> None:
    (name,) = ready(namespace, **labels)
    before = ask(url)
    kube.kubectl("-n", namespace, "delete", "pod", name, "--grace-period=0", "--force")
    eventually("a new pod", lambda: (now := ready(namespace, **labels)) and name not in now, 120)
    time.sleep(1.5)  # endpoints reach the router within a second
    assert ask(url) == before


def test_an_edited_and_a_deleted_child_are_put_back(tiny: dict[str, Any], namespace: str) -> None:
    prefill = engines(namespace)["prefill"]["metadata"]["name"]
    kube.kubectl("-n", namespace, "scale", f"deployment/{prefill}", "--replicas=2")
    eventually("the edit undone", lambda: engines(namespace)["prefill"]["spec"]["replicas"] == 1)
    uid = kube.get("-n", namespace, "service", "tiny")["metadata"]["uid"]
    kube.kubectl("-n", namespace, "delete", "service", "tiny")

    def again() -> bool:
        found = kube.get("-n", namespace, "services")["items"]
        return any(s["metadata"]["name"] == "tiny" and s["metadata"]["uid"] != uid for s in found)

    eventually("the Service made again", again)


def at_least(namespace: str, pool: str, replicas: int) -> None:
    patch = {"spec": {"pools": {pool: {"minReplicas": replicas}}}}
    kube.kubectl("-n", namespace, "patch", "llmsvc", "tiny", "--type=merge", "-p", json.dumps(patch))


def metrics_available(namespace: str, status: str) -> Callable[[], bool]:
    return lambda: kube.condition(kube.service(namespace, "tiny"), "MetricsAvailable") == status


def test_without_prometheus_a_size_that_is_not_needed_holds_and_status_says_why(url: str, namespace: str) -> None:
    """Two prefill pods that only the minimum asked for: they stay while nothing is known, and go when it is known."""
    at_least(namespace, "prefill", 2)
    eventually("two prefill pods", lambda: len(ready(namespace, pool="prefill")) == 2, 120)
    with away("monitoring", "prometheus"):
        eventually("MetricsAvailable False", metrics_available(namespace, "False"), 120)
        at_least(namespace, "prefill", 1)
        held_until_s = time.monotonic() + HOLD_S
        while time.monotonic() < held_until_s:
            assert engines(namespace)["prefill"]["spec"]["replicas"] == 2
            time.sleep(5)
        assert ask(url)
    eventually("MetricsAvailable True", metrics_available(namespace, "True"), 120)
    eventually("one prefill pod", lambda: len(kube.pods(namespace, "tiny", pool="prefill")) == 1, 240)


def test_with_the_operator_away_requests_flow_and_a_service_can_be_deleted(url: str, namespace: str) -> None:
    kube.apply(services.disaggregated("brief"))
    eventually("children of brief", lambda: kube.pods(namespace, "brief"))
    with away(install.OPERATOR_NAMESPACE, install.OPERATOR_DEPLOYMENT):
        assert ask(url)
        kube.kubectl("-n", namespace, "delete", "llmsvc", "brief", "--timeout=20s")
        eventually("its pods gone", lambda: not kube.pods(namespace, "brief"), 120)
    assert kube.condition(kube.service(namespace, "tiny"), "Ready") == "True"
