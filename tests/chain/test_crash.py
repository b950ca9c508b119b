"""A process of each kind is killed with SIGKILL under continuous streams, and what is promised for each holds."""

import random
import time
from collections.abc import Iterator

import pytest

from e2e import kube
from e2e.chain import services
from e2e.chain.streams import Answer, Streams, streaming
from e2e.demo.chat import wait_ready
from e2e.soak import faults, record
from e2e.soak.site import Site

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "crash"
SIZES = {"prefill": 2, "decode": 2}
WIDTH = 6
AFTER_S = 6.0
"""Between two kills; longer than the longest answer of an engine that is not disturbed."""
WELL_S = 240.0


@pytest.fixture(scope="module")
def site(namespace: str) -> Iterator[Site]:
    """Two of each kind at a card's pace, so that an answer lasts some seconds."""
    kube.apply(services.leaving(NAME, **SIZES, routers=2))
    made = Site(namespace=namespace, name=NAME, sizes=SIZES, routers=2)
    wait_ready(namespace, NAME, 300)
    kube.wait_for("all pods", made.is_whole, 300)
    yield made
    kube.kubectl("-n", namespace, "delete", "llmsvc", NAME)


def killed(site: Site, streams: Streams, kind: str) -> list[Answer]:
    """What was lost in the time of this kill, but for streams of a killed router."""
    seen = len(streams.answers)
    what = faults.FAULTS[kind](site, random.Random(0))
    time.sleep(AFTER_S)
    lost = record.losses(streams.answers[seen:], site.router_kills)
    print(f"{kind}: {what}; {streams.whole} answers whole, lost: {[str(a) for a in lost]}", flush=True)
    return lost


def test_each_kind_of_process_killed_loses_nothing_but_streams_of_a_killed_router(site: Site) -> None:
    with streaming(kube.expose(site.namespace, NAME), NAME, WIDTH) as streams:
        time.sleep(AFTER_S)
        for kind in ("the operator", "a prefill engine", "a router", "a decode engine"):
            assert killed(site, streams, f"SIGKILL of {kind}") == []
        kube.wait_for("all of them back", site.is_whole, WELL_S)
        whole = streams.whole
        kube.wait_for("answers from those that came back", lambda: streams.whole >= whole + 2 * WIDTH, 60)
    assert record.losses(streams.answers, site.router_kills) == []
