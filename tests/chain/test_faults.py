"""What people and machines do to a running service: pods killed, children edited, operator or Prometheus away."""

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


@pytest.mark.parametrize("pool", ["prefill", "decode"])
def test_a_killed_engine_comes_back_and_answers(url: str, namespace: str, pool: str) -> None:
    (pod,) = (p for p in kube.pods(namespace, "tiny", pool=pool) if kube.is_ready(p))
    name = pod["metadata"]["name"]
    before = ask(url)
    kube.kubectl("-n", namespace, "delete", "pod", name, "--grace-period=0", "--force")
    ready = lambda: [p for p in kube.pods(namespace, "tiny", pool=pool) if kube.is_ready(p)]  # noqa: E731
    eventually("a new pod", lambda: ready() and ready()[0]["metadata"]["name"] != name, 120)
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


def test_without_prometheus_sizes_hold_and_status_says_why(url: str, namespace: str) -> None:
    before = {pool: d["spec"]["replicas"] for pool, d in engines(namespace).items()}
    with away("monitoring", "prometheus"):
        eventually(
            "MetricsAvailable False",
            lambda: kube.condition(kube.service(namespace, "tiny"), "MetricsAvailable") == "False",
            120,
        )
        assert {pool: d["spec"]["replicas"] for pool, d in engines(namespace).items()} == before
        assert ask(url)
    eventually(
        "MetricsAvailable True",
        lambda: kube.condition(kube.service(namespace, "tiny"), "MetricsAvailable") == "True",
        120,
    )


def test_with_the_operator_away_requests_flow_and_a_service_can_be_deleted(url: str, namespace: str) -> None:
    kube.apply(services.disaggregated("brief"))
    eventually("children of brief", lambda: kube.pods(namespace, "brief"))
    with away(install.OPERATOR_NAMESPACE, install.OPERATOR_DEPLOYMENT):
        assert ask(url)
        kube.kubectl("-n", namespace, "delete", "llmsvc", "brief", "--timeout=20s")
        eventually("its pods gone", lambda: not kube.pods(namespace, "brief"), 120)
    assert kube.condition(kube.service(namespace, "tiny"), "Ready") == "True"
