"""Nodes that only pretend: Ready, with GPUs, leases renewed; pods bound to them start, crash and leave by script.

For a bare control plane. Nothing runs in such a pod and its address leads nowhere. The nodes survive restarts of
the API server, and write nothing for a pod that does what it should.
"""

from __future__ import annotations

import http.client
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from e2e.cluster import fake_manifests as manifests
from e2e.cluster import kube_api
from e2e.cluster.agenda import Agenda
from e2e.cluster.fake_manifests import Node
from e2e.cluster.kube_api import ApiError, Client, Manifest

__all__ = ["Behaviour", "FakeNodes", "Node"]

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
RENEWAL_S = 10.0
RETRY_S = 0.2
OUTAGE = (OSError, http.client.HTTPException)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a pod does once it is bound to a fake node. None means never."""

    start_s: float | None = 0.2  # bound -> Running
    ready_s: float | None = 0.0  # Running -> Ready
    crash_s: float | None = None  # Ready -> its containers die; they start again after `start_s`
    stop_s: float = 0.0  # deleted -> gone, at most the pod's grace period


@dataclass(slots=True, kw_only=True)
class Pod:
    """A pod bound to one of our nodes."""

    manifest: Manifest
    behaviour: Behaviour
    address: str
    restarts: int = 0
    leaving: bool = False

    @property
    def path(self) -> str:
        meta = self.manifest["metadata"]
        return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"

    @property
    def node(self) -> str:
        return str(self.manifest["spec"]["nodeName"])

    @property
    def uid(self) -> str:
        return str(self.manifest["metadata"]["uid"])


class FakeNodes:
    """Plays the kubelets of some nodes against one API server."""

    def __init__(self, client: Client, nodes: Sequence[Node], *, start_s: float = 0.2) -> None:
        self._client = client
        self._nodes = {node.name: node for node in nodes}
        self._default = Behaviour(start_s=start_s)
        self._rules: list[tuple[Mapping[str, str], Behaviour]] = []
        self._lost: set[str] = set()
        self._pods: dict[str, Pod] = {}
        self._number = itertools.count()
        self._agenda = Agenda("fake-nodes-agenda")
        self._ended = threading.Event()

    def start(self) -> None:
        """Register the nodes and begin to serve their pods; returns when the nodes are Ready."""
        for name in self._nodes:
            self._register(name)
        self._agenda.start()
        self._agenda.after(RENEWAL_S, self._renew)
        threading.Thread(target=self._follow, name="fake-nodes-watch", daemon=True).start()

    def stop(self) -> None:
        """Stop pretending; nodes and pods stay in the API server as they are."""
        self._ended.set()
        self._agenda.stop()

    # The script: what a test may say.

    def behave(self, labels: Mapping[str, str], behaviour: Behaviour) -> None:
        """Pods with these labels that are bound from now on do `behaviour`; the latest matching rule wins."""
        self._rules.insert(0, (dict(labels), behaviour))

    def crash(self, namespace: str, name: str) -> None:
        """Let the containers of a running pod die now; they start again after its `start_s`."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        pod = next(pod for pod in list(self._pods.values()) if pod.path == path)
        self._agenda.after(0, lambda: self._crash(pod))

    def set_gpus(self, node: str, gpus: int) -> None:
        """Change how many GPUs a node has; running pods stay, new ones may become unschedulable."""
        self._nodes[node] = replace(self._nodes[node], gpus=gpus)
        self._client.patch(f"/api/v1/nodes/{node}/status", manifests.capacity(self._nodes[node]))

    def lose(self, node: str) -> None:
        """The node falls silent: it and its pods are not Ready, deleted pods stay, bound ones do not start.

        What the node controller would find out after 50 s is written at once.
        """
        self._lost.add(node)
        silent = manifests.node_ready(ready=False)
        self._client.patch(f"/api/v1/nodes/{node}/status", silent, kube_api.STRATEGIC)
        for pod in self._pods_on(node):
            self._client.patch(f"{pod.path}/status", manifests.pod_unheard(pod.manifest), kube_api.STRATEGIC)

    def restore(self, node: str) -> None:
        """A lost node is back, and so are its pods."""
        self._lost.discard(node)
        self._register(node)
        for pod in self._pods_on(node):
            self._later(0, pod, self._run)

    def _pods_on(self, node: str) -> list[Pod]:
        return [pod for pod in list(self._pods.values()) if pod.node == node]

    # Nodes.

    def _register(self, name: str) -> None:
        node, number = self._nodes[name], list(self._nodes).index(name)
        with _tolerating(kube_api.CONFLICT):
            self._client.create("/api/v1/nodes", manifests.node(node))
        with _tolerating(kube_api.CONFLICT):
            self._client.create(LEASES, manifests.lease(name))
        status = manifests.node_status(node, number)
        self._client.patch(f"/api/v1/nodes/{name}/status", status, kube_api.STRATEGIC)
        # A new node is tainted until a controller sees it Ready; do not depend on there being one.
        self._client.patch(f"/api/v1/nodes/{name}", {"spec": {"taints": None}})

    def _renew(self) -> None:
        for name in sorted(self._nodes.keys() - self._lost):
            with suppress(*OUTAGE, ApiError):
                renewal = {"spec": {"renewTime": manifests.now_precise()}}
                self._client.patch(f"{LEASES}/{name}", renewal)
        self._agenda.after(RENEWAL_S, self._renew)

    # Pods: seen by one thread, changed by the agenda's.

    def _follow(self) -> None:
        while not self._ended.is_set():
            try:
                self._list_and_watch()
            except OUTAGE:
                self._ended.wait(RETRY_S)
            except ApiError as problem:
                if problem.code != kube_api.GONE:
                    log.warning("fake nodes cannot watch pods: %s", problem)
                self._ended.wait(RETRY_S)

    def _list_and_watch(self) -> None:
        bound = {"fieldSelector": "spec.nodeName!="}
        listed = self._client.get("/api/v1/pods", **bound)
        for uid in self._pods.keys() - {item["metadata"]["uid"] for item in listed["items"]}:
            self._pods.pop(uid)
        for item in listed["items"]:
            self._saw(item)
        for event in self._client.watch("/api/v1/pods", listed["metadata"]["resourceVersion"], **bound):
            if self._ended.is_set():
                return
            if event["type"] == "DELETED":
                self._pods.pop(event["object"]["metadata"]["uid"], None)
            elif event["type"] != "BOOKMARK":
                self._saw(event["object"])

    def _saw(self, manifest: Manifest) -> None:
        if manifest["spec"]["nodeName"] not in self._nodes:
            return
        pod = self._pods.get(manifest["metadata"]["uid"])
        if pod is None:
            pod = self._adopt(manifest)
        pod.manifest = manifest
        if "deletionTimestamp" in manifest["metadata"] and not pod.leaving:
            pod.leaving = True
            grace_s = manifest["metadata"].get("deletionGracePeriodSeconds") or 0
            self._later(min(pod.behaviour.stop_s, grace_s), pod, self._remove)

    def _adopt(self, manifest: Manifest) -> Pod:
        address = manifest["status"].get("podIP") or str(manifests.FIRST_POD + next(self._number))
        pod = Pod(manifest=manifest, behaviour=self._behaviour_of(manifest), address=address)
        self._pods[pod.uid] = pod
        if manifest["status"].get("phase") == "Pending":
            self._later(pod.behaviour.start_s, pod, self._run)
        return pod

    def _behaviour_of(self, manifest: Manifest) -> Behaviour:
        labels = manifest["metadata"].get("labels", {}).items()
        return next((does for rule, does in self._rules if rule.items() <= labels), self._default)

    def _later(self, delay_s: float | None, pod: Pod, action: Callable[[Pod], None]) -> None:
        if delay_s is not None:
            self._agenda.after(delay_s, lambda: self._attempt(pod, action))

    def _attempt(self, pod: Pod, action: Callable[[Pod], None]) -> None:
        """Do `action` unless the pod is gone; again later while its node or the API server is away."""
        if self._pods.get(pod.uid) is not pod:
            return
        if pod.node in self._lost:
            self._later(RETRY_S, pod, action)
            return
        try:
            with _tolerating(kube_api.NOT_FOUND, kube_api.CONFLICT):
                action(pod)
        except OUTAGE:
            self._later(RETRY_S, pod, action)
        except ApiError as problem:
            log.warning("fake nodes cannot change %s: %s", pod.path, problem)

    def _run(self, pod: Pod) -> None:
        at_once = pod.behaviour.ready_s == 0
        self._show_running(pod, ready=at_once)
        if at_once:
            self._later(pod.behaviour.crash_s, pod, self._crash)
        else:
            self._later(pod.behaviour.ready_s, pod, self._become_ready)

    def _become_ready(self, pod: Pod) -> None:
        self._show_running(pod, ready=True)
        self._later(pod.behaviour.crash_s, pod, self._crash)

    def _crash(self, pod: Pod) -> None:
        pod.restarts += 1
        self._show(pod, manifests.pod_crashed(pod.manifest, address=pod.address, restarts=pod.restarts))
        self._later(pod.behaviour.start_s, pod, self._run)

    def _show_running(self, pod: Pod, *, ready: bool) -> None:
        shown = manifests.pod_running(pod.manifest, address=pod.address, ready=ready, restarts=pod.restarts)
        self._show(pod, shown)

    def _show(self, pod: Pod, shown: Manifest) -> None:
        if not pod.leaving:
            self._client.patch(f"{pod.path}/status", shown, kube_api.STRATEGIC)

    def _remove(self, pod: Pod) -> None:
        at_once = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}}
        self._client.delete(pod.path, at_once)


@contextmanager
def _tolerating(*codes: int) -> Iterator[None]:
    try:
        yield
    except ApiError as problem:
        if problem.code not in codes:
            raise
