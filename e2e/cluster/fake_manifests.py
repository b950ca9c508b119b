"""What fake nodes write: nodes, leases and pod states as a kubelet would report them. Pure: nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address

from e2e.cluster.kube_api import Manifest

GPU = "nvidia.com/gpu"
LEASE_S = 40
# Addresses that lead nowhere: RFC 5737 for nodes, RFC 2544 (131,072 of them) for pods.
FIRST_NODE = IPv4Address("192.0.2.1")
FIRST_POD = IPv4Address("198.18.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node to pretend. Generous but for its GPUs, so that GPUs are what runs out."""

    name: str
    gpus: int = 8
    cpus: int = 128
    memory_gib: int = 1024
    max_pods: int = 2000
    labels: Mapping[str, str] = field(default_factory=dict)


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_precise() -> str:
    """The time as leases have it (MicroTime)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def node(wanted: Node) -> Manifest:
    labels = {
        "kubernetes.io/hostname": wanted.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        **wanted.labels,
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": wanted.name, "labels": labels}}


def node_status(wanted: Node, number: int) -> Manifest:
    addresses = [
        {"type": "InternalIP", "address": str(FIRST_NODE + number)},
        {"type": "Hostname", "address": wanted.name},
    ]
    status = {**capacity(wanted)["status"], **node_ready(ready=True)["status"], "addresses": addresses}
    return {"status": status}


ENDED: Manifest = {"terminated": {"exitCode": 1, "reason": "Error"}}
"""Of a container that crashed."""


def capacity(wanted: Node) -> Manifest:
    amounts = {
        "cpu": str(wanted.cpus),
        "memory": f"{wanted.memory_gib}Gi",
        "pods": str(wanted.max_pods),
        GPU: str(wanted.gpus),
    }
    return {"status": {"capacity": amounts, "allocatable": amounts}}


def node_ready(*, ready: bool) -> Manifest:
    status, reason = ("True", "FakeNodeReady") if ready else ("Unknown", "NodeStatusUnknown")
    return {"status": {"conditions": [_condition("Ready", status, reason)]}}


def lease(name: str) -> Manifest:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_S,
            "renewTime": now_precise(),
        },
    }


def pod_running(pod: Manifest, *, address: str, ready: bool, restarts: int) -> Manifest:
    """Every container runs since now; one that was started again tells how it ended before, as a kubelet's does."""
    state = {"running": {"startedAt": now()}}
    last = ENDED if restarts else None
    return _pod_status(pod, state, address=address, ready=ready, restarts=restarts, last=last)


def pod_crashed(pod: Manifest, *, address: str, restarts: int) -> Manifest:
    """Every container died and waits for its next start."""
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "scripted crash"}}
    return _pod_status(pod, state, address=address, ready=False, restarts=restarts, last=ENDED)


def pod_unheard(pod: Manifest) -> Manifest:
    """Its node is silent: what the node controller writes."""
    return {
        "metadata": {"uid": pod["metadata"]["uid"]},
        "status": {"conditions": [_condition("Ready", "False", "NodeNotReady")]},
    }


def _pod_status(
    pod: Manifest, state: Manifest, *, address: str, ready: bool, restarts: int, last: Manifest | None = None
) -> Manifest:
    status, reason = ("True", "") if ready else ("False", "ContainersNotReady")
    settled = {"PodScheduled": "True", "Initialized": "True", "PodReadyToStartContainers": "True"}
    conditions = [_condition(kind, value) for kind, value in settled.items()]
    conditions += [_condition(kind, status, reason) for kind in ("ContainersReady", "Ready")]
    containers = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": ready,
            "started": "running" in state,
            "restartCount": restarts,
            "state": state,
            "lastState": last or {},
        }
        for container in pod["spec"]["containers"]
    ]
    return {
        # The uid makes the API server refuse the write when another pod took the name meanwhile.
        "metadata": {"uid": pod["metadata"]["uid"]},
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": pod["status"].get("startTime") or now(),
            "conditions": conditions,
            "containerStatuses": containers,
        },
    }


def _condition(kind: str, status: str, reason: str = "") -> Manifest:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "lastTransitionTime": now(),
        **({"lastHeartbeatTime": now()} if reason in ("FakeNodeReady", "NodeStatusUnknown") else {}),
    }
