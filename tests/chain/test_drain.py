"""Pods leave under continuous streams, by our choice and by others': no answer fails, comes short or is another."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from e2e import kube
from e2e.chain import services
from e2e.chain.streams import Streams, streaming
from e2e.demo.chat import wait_ready
from llmservice_core import contract

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "leave"
WIDTH = 6
SETTLED_S = 3.0


@pytest.fixture(scope="module")
def paced(namespace: str) -> Iterator[str]:
    """Two prefill and three decode pods at a card's pace, so that an answer lasts some seconds; the URL."""
    kube.apply(services.leaving(NAME, prefill=2, decode=3))
    wait_ready(namespace, NAME, 240)
    kube.wait_for("all pods", lambda: (len(ready("prefill")), len(ready("decode"))) == (2, 3), 240)
    yield kube.expose(namespace, NAME)
    kube.kubectl("-n", namespace, "delete", "llmsvc", NAME)


def pods(pool: str) -> list[Any]:
    return kube.pods(services.NAMESPACE, NAME, pool=pool)


def ready(pool: str) -> list[str]:
    return [p["metadata"]["name"] for p in pods(pool) if kube.is_ready(p)]


def resize(pool: str, size: int) -> None:
    patch = {"spec": {"pools": {pool: {"minReplicas": size, "maxReplicas": size}}}}
    kube.kubectl("-n", services.NAMESPACE, "patch", "llmsvc", NAME, "--type=merge", "-p", json.dumps(patch))


def told(reason: str) -> list[str]:
    found = kube.get("-n", services.NAMESPACE, "events")["items"]
    return [e["message"] for e in found if e["reason"] == reason and e["involvedObject"]["name"] == NAME]


def shrink(pool: str, size: int) -> float:
    """Seconds until the pod that was chosen is gone."""
    began_s = time.monotonic()
    resize(pool, size)
    kube.wait_for(f"{size} {pool} pods", lambda: len(pods(pool)) == size, 90, every_s=0.5)
    return time.monotonic() - began_s


def take_back(pool: str, size: int) -> None:
    """The load returns while a pod still has streams: the very same pods stay."""
    before, marked = sorted(ready(pool)), len(told("DrainStarted"))
    resize(pool, size - 1)
    kube.wait_for("a drain", lambda: len(told("DrainStarted")) > marked, 30, every_s=0.2)
    resize(pool, size)
    kube.wait_for("the drain taken back", lambda: told("DrainTakenBack"), 30, every_s=0.5)
    kube.wait_for("no mark left", lambda: not any(map(is_marked, pods(pool))), 20, every_s=0.5)
    assert sorted(ready(pool)) == before


def is_marked(pod: Any) -> bool:
    return contract.ANNOTATION_DRAIN in (pod["metadata"].get("annotations") or {})


def evict(name: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": services.NAMESPACE}}
    path = f"/api/v1/namespaces/{services.NAMESPACE}/pods/{name}/eviction"
    kube.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))


def gone_and_replaced(pool: str, name: str, size: int) -> None:
    kube.wait_for(f"{name} gone", lambda: name not in {p["metadata"]["name"] for p in pods(pool)}, 90)
    kube.wait_for("its successor", lambda: len(ready(pool)) == size, 150)


def drain_node(name: str) -> None:
    """Of our engines, as `kubectl drain` does it: one pod of a pool at a time, by the disruption budgets."""
    engines = f"--pod-selector={contract.LABEL_COMPONENT}={contract.COMPONENT_ENGINE},{contract.LABEL_NAME}={NAME}"
    flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=170s")
    try:
        kube.kubectl("drain", name, engines, *flags, timeout_s=180)
    finally:
        kube.kubectl("uncordon", name)


def roll() -> None:
    """A new revision starts beside the old one, whose pods all go at once when it is Ready."""
    old = {p["metadata"]["name"] for pool in ("prefill", "decode") for p in pods(pool)}
    env = kube.service(services.NAMESPACE, NAME)["spec"]["engine"]["env"]
    patch = {"spec": {"engine": {"env": [*env, {"name": "ROLLED", "value": "1"}]}}}
    kube.kubectl("-n", services.NAMESPACE, "patch", "llmsvc", NAME, "--type=merge", "-p", json.dumps(patch))

    def is_over() -> bool:
        names = {p["metadata"]["name"] for pool in ("prefill", "decode") for p in pods(pool)}
        return not names & old and len(ready("prefill")) == len(ready("decode")) == 1

    kube.wait_for("only the new revision", is_over, 200)


def node_of(pool: str) -> str:
    return str(pods(pool)[0]["spec"]["nodeName"])


def lived_on(name: str, pool: str) -> int:
    return sum(p["spec"]["nodeName"] == name for p in pods(pool))


def say(streams: Streams, what: str) -> None:
    print(f"{what}: {streams.whole} answers whole, {len(streams.lost)} lost", flush=True)


def test_no_answer_is_lost_whoever_makes_a_pod_leave(paced: str, namespace: str) -> None:
    with streaming(paced, NAME, WIDTH) as streams:
        say(streams, f"1 of 3 decode pods drained and gone after {shrink('decode', 2):.1f} s")
        take_back("decode", 2)
        say(streams, "a drain taken back")
        (victim, *_) = ready("decode")
        evict(victim)
        say(streams, f"1 of 2 prefill pods drained and gone after {shrink('prefill', 1):.1f} s")
        gone_and_replaced("decode", victim, 2)
        say(streams, "a decode pod evicted and replaced")
        node = node_of("prefill")
        moved = f"{lived_on(node, 'decode')} decode pods and the only prefill pod"
        drain_node(node)
        kube.wait_for("two decode pods", lambda: len(ready("decode")) == 2, 150)
        kube.wait_for("a prefill pod", lambda: len(ready("prefill")) == 1, 150)
        say(streams, f"a node drained of {moved}")
        say(streams, f"1 of 2 decode pods drained and gone after {shrink('decode', 1):.1f} s")
        roll()
        say(streams, "both pools rolled to a new revision")
        time.sleep(SETTLED_S)
    say(streams, "at the end")
    assert streams.lost == []
    assert streams.whole > 2 * WIDTH
    assert (len(told("DrainEnded")), told("DrainDeadlineOver")) == (3, [])
    status = kube.service(namespace, NAME)["status"]
    assert [status["pools"][pool]["draining"] for pool in ("prefill", "decode")] == [0, 0]
