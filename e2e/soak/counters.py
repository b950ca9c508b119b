"""Counters of all routers, read from them every two seconds: they live in processes that are killed and replaced."""

import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from e2e import kube
from e2e.soak.site import ROUTER, Site
from llmservice_core import contract

EVERY_S = 2.0
LIST_EVERY = 4
"""Readings between two looks at which routers there are."""
OF_ROUTER = "llmservice_router_"
TELLING = ("reason=", "outcome=")
"""Labels of counters that say what went otherwise than it should: retries, requests that failed, refusals."""
FINE = 'outcome="ok"'
LEFT_OUT = ("llmservice=", "class=", "tenant=")


def sums(text: str) -> dict[str, float]:
    """Of a router's metrics page: the counters that tell of trouble, added up over services, classes and tenants."""
    found: dict[str, float] = defaultdict(float)
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        labels, _, value = rest.rpartition("} ")
        if name.startswith(OF_ROUTER) and name.endswith("_total") and FINE not in labels:
            shown = [pair for pair in labels.split(",") if not pair.startswith(LEFT_OUT)]
            if any(pair.startswith(TELLING) for pair in shown):
                found[f"{name}{{{','.join(shown)}}}"] += float(value)
    return dict(found)


class Growth:
    """What counters that start anew with their process have grown by in all, as far as it was seen."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, float]] = {}
        self.total: dict[str, float] = defaultdict(float)

    def saw(self, source: str, values: Mapping[str, float]) -> None:
        """A value below the last one is of a new process, and counts from 0. So does a source never seen before."""
        last = self._last.get(source, {})
        for name, value in values.items():
            before = last.get(name, 0.0)
            self.total[name] += value - before if value >= before else value
        self._last[source] = dict(values)


class RouterCounters:
    """A thread that reads until it is stopped. What a killed router counted since it was read last is not known."""

    def __init__(self, site: Site) -> None:
        self._site, self._growth = site, Growth()
        self._stopped = threading.Event()
        self._addresses: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "RouterCounters":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(30)

    def now(self) -> dict[str, float]:
        return dict(self._growth.total)

    def _run(self) -> None:
        number = 0
        while not self._stopped.wait(EVERY_S):
            if number % LIST_EVERY == 0:
                self._list()
            number += 1
            for name, address in list(self._addresses.items()):
                self._read(name, address)

    def _list(self) -> None:
        try:
            pods: list[Any] = self._site.pods(ROUTER)
        except (kube.KubectlError, TimeoutError):
            return  # the API server may be away; the routers that are known are read on
        self._addresses = {p["metadata"]["uid"]: ip for p in pods if (ip := p["status"].get("podIP"))}

    def _read(self, uid: str, address: str) -> None:
        try:
            with urlopen(f"http://{address}:{contract.PORT_ROUTER_METRICS}/metrics", timeout=2) as reply:
                self._growth.saw(uid, sums(reply.read().decode()))
        except (URLError, OSError):
            return  # killed or gone


def grown(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: rise for name in sorted(after) if (rise := after[name] - before.get(name, 0.0)) > 0}


def settle() -> None:
    """As long as one reading takes at most to see the last counts."""
    time.sleep(EVERY_S + 1)
