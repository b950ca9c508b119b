"""The deadline of a drain under streams: what a pod still has then goes on in another one, token by token the same."""

import time
from collections.abc import Iterator

import pytest

from e2e import kube
from e2e.chain import services
from e2e.chain.streams import streaming
from e2e.demo.chat import wait_ready
from e2e.soak.site import ROUTER, Site
from llmservice_core import contract, metric_names

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "hurry"
SIZES = {"prefill": 1, "decode": 2}
WIDTH = 8
DEADLINE_S = 1.0
"""Shorter than what most answers still need: some are on the pod when it is over."""
GONE_S = 30.0
"""The deadline, the hook's quiet time, the process's own end, and a machine that is slow."""


@pytest.fixture(scope="module")
def site(namespace: str) -> Iterator[Site]:
    manifest = services.leaving(NAME, **SIZES)
    manifest["spec"]["scaling"]["scaleDown"]["drainDeadline"] = f"{DEADLINE_S:g}s"
    kube.apply(manifest)
    made = Site(namespace=namespace, name=NAME, sizes=SIZES, routers=1)
    wait_ready(namespace, NAME, 300)
    kube.wait_for("all pods", made.is_whole, 300)
    yield made
    kube.kubectl("-n", namespace, "delete", "llmsvc", NAME)


def moved(site: Site) -> float:
    """Requests that the router has taken from engines whose time was over."""
    (pod,) = site.ready(ROUTER)
    seen = kube.pod_metrics(site.namespace, pod["metadata"]["name"], contract.PORT_ROUTER_METRICS)
    return sum(v for k, v in seen.items() if k.startswith(metric_names.RETRIES) and 'reason="drain_deadline"' in k)


def test_what_is_left_at_the_deadline_goes_on_elsewhere(site: Site) -> None:
    with streaming(kube.expose(site.namespace, NAME), NAME, WIDTH) as streams:
        time.sleep(5.0)
        began_s = time.monotonic()
        site.resize("decode", 1)
        kube.wait_for("one decode pod", lambda: len(site.pods("decode")) == 1, GONE_S, every_s=0.5)
        took_s, taken = time.monotonic() - began_s, moved(site)
        whole = streams.whole
        kube.wait_for("answers from the one that stays", lambda: streams.whole >= whole + 2 * WIDTH, 120)
    print(f"gone after {took_s:.1f} s, {taken:.0f} streams moved, {streams.whole} answers whole", flush=True)
    assert streams.lost == []
    assert taken >= 1
