"""What is done to the service, one function per kind of fault. Each returns in words what it did.

None of them waits until all is well again: the one who calls does, for every kind in the same way.
"""

import random
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from e2e import install, kube
from e2e.chain import kill
from e2e.soak.site import POOLS, ROUTER, Site, is_marked

GONE_S = 150.0
ROLLED_S = 400.0
DRAINED_S = 400.0
OUTAGE_S = 60.0

Fault = Callable[[Site, random.Random], str]


def scale_down(site: Site, rng: random.Random) -> str:
    """One pod fewer, and then as many as before."""
    pool = rng.choice(POOLS)
    began_s = time.monotonic()
    site.resize(pool, site.sizes[pool] - 1)
    _wait_for_size(site, pool, site.sizes[pool] - 1)
    took_s = time.monotonic() - began_s
    site.resize(pool, site.sizes[pool])
    return f"1 of {site.sizes[pool]} {pool} pods drained and gone after {took_s:.0f} s"


def _wait_for_size(site: Site, pool: str, size: int) -> None:
    kube.wait_for(f"{size} {pool} pods", lambda: len(site.pods(pool)) == size, GONE_S)


def rollout(site: Site, rng: random.Random) -> str:
    """A new revision of all engines beside the old one, which goes when the new one is Ready."""
    old = {p["metadata"]["name"] for pool in POOLS for p in site.pods(pool)}
    site.rolled += 1
    env = [e for e in kube.service(site.namespace, site.name)["spec"]["engine"]["env"] if e["name"] != "ROLLED"]
    began_s = time.monotonic()
    site.patch({"engine": {"env": [*env, {"name": "ROLLED", "value": str(site.rolled)}]}})
    kube.wait_for("the old revision gone", lambda: not old & _names(site), ROLLED_S, every_s=2)
    return f"{len(old)} engines replaced by a new revision in {time.monotonic() - began_s:.0f} s"


def _names(site: Site) -> set[str]:
    return {p["metadata"]["name"] for pool in POOLS for p in site.pods(pool)}


def kill_engine(site: Site, rng: random.Random, *, pool: str) -> str:
    pod = rng.choice(site.ready(pool))
    site.kill(pod)
    return f"{pod['metadata']['name']} killed"


def kill_router(site: Site, rng: random.Random) -> str:
    pod = rng.choice(site.ready(ROUTER))
    site.kill_router(pod)
    return f"{pod['metadata']['name']} killed"


def kill_operator(site: Site, rng: random.Random) -> str:
    pod = site.operator()
    site.kill(pod, install.OPERATOR_NAMESPACE)
    return f"{pod['metadata']['name']} killed"


def kill_operator_in_drain(site: Site, rng: random.Random) -> str:
    """The drain goes on from what stands in the cluster."""
    pool = rng.choice(POOLS)
    site.resize(pool, site.sizes[pool] - 1)
    marked = kube.wait_for("a drain", lambda: [p for p in site.pods(pool) if is_marked(p)], 60, every_s=0.3)
    kill_operator(site, rng)
    _wait_for_size(site, pool, site.sizes[pool] - 1)
    site.resize(pool, site.sizes[pool])
    return f"operator killed while {marked[0]['metadata']['name']} was draining"


def drain_node(site: Site, rng: random.Random) -> str:
    """Everything that runs on one node, as `kubectl drain` does it for a person who wants to repair the machine."""
    node = rng.choice(site.ready(rng.choice(POOLS)))["spec"]["nodeName"]
    moved = [
        p["metadata"]["name"] for kind in (*POOLS, ROUTER) for p in site.pods(kind) if p["spec"]["nodeName"] == node
    ]
    flags = ("--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={DRAINED_S:.0f}s")
    began_s = time.monotonic()
    try:
        kube.kubectl("drain", node, *flags, timeout_s=DRAINED_S + 30)
    finally:
        kube.kubectl("uncordon", node)
    return f"{node} drained of {len(moved)} pods of the service in {time.monotonic() - began_s:.0f} s"


def restart_api_server(site: Site, rng: random.Random) -> str:
    began_s = time.monotonic()
    kill.sigkill(kill.api_server())
    kube.wait_for("the API server to be away", lambda: not _api_answers(), 20, every_s=0.1)
    kube.wait_for("the API server", _api_answers, 120)
    return f"API server killed, away for {time.monotonic() - began_s:.0f} s"


def _api_answers() -> bool:
    try:
        return kube.kubectl("get", "--raw", "/readyz", timeout_s=10) == "ok"
    except (kube.KubectlError, subprocess.TimeoutExpired):
        return False


def stop_prometheus(site: Site, rng: random.Random) -> str:
    _scale_prometheus(0)
    try:
        time.sleep(OUTAGE_S)
    finally:
        _scale_prometheus(1)
    return f"Prometheus away for {OUTAGE_S:.0f} s, its samples lost"


def _scale_prometheus(replicas: int) -> None:
    kube.kubectl("-n", "monitoring", "scale", "deployment/prometheus", f"--replicas={replicas}")
    kube.kubectl("-n", "monitoring", "rollout", "status", "deployment/prometheus", "--timeout=100s")


FAULTS: Mapping[str, Fault] = {
    "scale-down": scale_down,
    "rollout": rollout,
    "SIGKILL of a prefill engine": partial(kill_engine, pool="prefill"),
    "SIGKILL of a decode engine": partial(kill_engine, pool="decode"),
    "SIGKILL of a router": kill_router,
    "SIGKILL of the operator": kill_operator,
    "SIGKILL of the operator in the middle of a drain": kill_operator_in_drain,
    "node drain": drain_node,
    "restart of the API server": restart_api_server,
    "outage of Prometheus": stop_prometheus,
}


def problems() -> tuple[type[Exception], ...]:
    """How a fault fails to be done or a wait to end; such a fault is told of and the soak goes on."""
    return (kube.KubectlError, TimeoutError, subprocess.SubprocessError, ValueError, LookupError)


def words(error: Exception) -> Any:
    stderr = getattr(error, "stderr", None)
    return (stderr.decode() if isinstance(stderr, bytes) else stderr) or f"{type(error).__name__}: {error}"
