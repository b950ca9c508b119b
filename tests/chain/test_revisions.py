"""Services without engines, and one revision after another, with real engines: nothing is lost, and it is told."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from e2e import kube
from e2e.chain import services
from e2e.chain.streams import streaming
from e2e.demo.chat import wait_ready
from llmservice_core import contract

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAMESPACE = services.NAMESPACE
PAIR, ZERO = "pair", "zero"
START_S = 240.0
"""As long as the other tests here wait for engines to be Ready: 20 s on a quiet machine, minutes beside other work."""


def condition(name: str, kind: str) -> Any:
    found = kube.service(NAMESPACE, name).get("status", {}).get("conditions", [])
    return next((c for c in found if c["type"] == kind), {"status": "", "reason": "", "message": ""})


def engines(name: str) -> list[Any]:
    return kube.pods(NAMESPACE, name, component=contract.COMPONENT_ENGINE)


def holding(name: str) -> int:
    """Pods that hold GPUs; one that ended is shown until the kubelet has cleaned up behind it."""
    return sum(p["status"].get("phase") not in ("Succeeded", "Failed") for p in engines(name))


def names(name: str) -> set[str]:
    return {p["metadata"]["name"] for p in engines(name)}


def patch(name: str, spec: dict[str, Any]) -> None:
    kube.kubectl("-n", NAMESPACE, "patch", "llmsvc", name, "--type=merge", "-p", json.dumps({"spec": spec}))


def told(name: str, reason: str) -> list[str]:
    found = kube.get("-n", NAMESPACE, "events")["items"]
    return [e["message"] for e in found if e["reason"] == reason and e["involvedObject"]["name"] == name]


def ask(url: str, model: str) -> str:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=START_S, max_retries=0)
    return (
        client.completions.create(model=model, prompt="good morning " * 5, max_tokens=6, temperature=0).choices[0].text
    )


@contextmanager
def watched(look: Any) -> Iterator[list[Any]]:
    """What `look` gave while the block ran, each value once."""
    seen: list[Any] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            value = look()
            if value not in seen:
                seen.append(value)
            ended.wait(0.5)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join(30)


def test_a_request_wakes_a_service_without_engines_and_it_falls_asleep_again(namespace: str) -> None:
    kube.apply(services.asleep(ZERO, "10s"))
    kube.wait_for("a router", lambda: condition(ZERO, "Ready")["reason"] == "ScaledToZero", 120)
    assert condition(ZERO, "Asleep")["status"] == "True"
    assert engines(ZERO) == []
    url, answers = kube.expose(namespace, ZERO), list[str]()
    asking = threading.Thread(target=lambda: answers.append(ask(url, ZERO)))
    with watched(lambda: condition(ZERO, "Asleep")["reason"]) as reasons:
        began_s = time.monotonic()
        asking.start()
        kube.wait_for("engines made", lambda: len(engines(ZERO)) == 2, 30, every_s=0.2)
        made_s = time.monotonic() - began_s
        asking.join(START_S)
        print(f"engines made after {made_s:.1f} s, answer after {time.monotonic() - began_s:.1f} s", flush=True)
    assert answers, kube.service(NAMESPACE, ZERO)["status"]["conditions"]
    assert "Waking" in reasons
    assert ask(url, ZERO) == answers[0]
    kube.wait_for("it to be awake", lambda: condition(ZERO, "Asleep")["reason"] == "Awake", 30)
    # Not before the minute is over in which Prometheus counts its arrival.
    kube.wait_for("it to sleep again", lambda: condition(ZERO, "Asleep")["status"] == "True", 150)
    kube.wait_for("no engine", lambda: not engines(ZERO), 60)
    kube.kubectl("-n", namespace, "delete", "llmsvc", ZERO)


@pytest.fixture(scope="module")
def pair(namespace: str) -> Iterator[str]:
    kube.apply(services.lone_pair(PAIR))
    wait_ready(namespace, PAIR, 240)
    yield kube.expose(namespace, PAIR)
    kube.kubectl("-n", namespace, "delete", "llmsvc", PAIR)


def test_a_lone_pair_is_replaced_without_a_gpu_more_and_without_a_lost_answer(pair: str, namespace: str) -> None:
    old = names(PAIR)
    with streaming(pair, PAIR, 3, patience_s=START_S + 60) as streams, watched(lambda: holding(PAIR)) as counts:
        time.sleep(2)
        began_s = time.monotonic()
        patch(PAIR, {"engine": {"args": [*kube.service(namespace, PAIR)["spec"]["engine"]["args"], "--seed=7"]}})
        kube.wait_for("the pause told of", lambda: told(PAIR, "RolloutPause"), 60, every_s=0.5)
        kube.wait_for("only new engines", lambda: len(new := names(PAIR)) == 2 and not new & old, 120)
        kube.wait_for("the rollout to end", lambda: condition(PAIR, "Progressing")["reason"] == "Settled", START_S)
        print(f"replaced after {time.monotonic() - began_s:.1f} s, {streams.whole} answers whole before", flush=True)
        whole = streams.whole
        kube.wait_for("answers of the new revision", lambda: streams.whole > whole + 3, 60)
    assert streams.lost == []
    assert max(counts) == 2


def test_a_broken_revision_is_told_of_with_its_last_line_and_the_old_spec_brings_nothing_new(
    pair: str, namespace: str
) -> None:
    text, before = ask(pair, PAIR), names(PAIR)
    args = kube.service(namespace, PAIR)["spec"]["engine"]["args"]
    patch(PAIR, {"engine": {"args": [*args, "--no-such-flag"]}, "scaling": {"gpuBudget": 4}})
    kube.wait_for("the crash told of", lambda: condition(PAIR, "Degraded")["reason"] == "EngineCrashed", START_S)
    message = condition(PAIR, "Degraded")["message"]
    print(f"Degraded: {message}", flush=True)
    assert any(name in message for name in names(PAIR) - before)
    assert "exit code 2" in message
    assert "unrecognized arguments: --no-such-flag" in message
    assert "the earlier revision serves on" in message
    assert condition(PAIR, "Progressing")["reason"] == "RolloutStopped"
    assert ask(pair, PAIR) == text
    patch(PAIR, {"engine": {"args": args}})
    kube.wait_for("only the old engines", lambda: names(PAIR) == before, 60)
    kube.wait_for("nothing to tell", lambda: condition(PAIR, "Degraded")["status"] == "False", 30)
    assert ask(pair, PAIR) == text
