"""Describes the kind cluster and makes it: one control plane, two workers, GPUs faked on the workers' status.

The description is pure; the rest runs kind and kubectl through a `Shell`, so that it is the same on the machine's
docker engine and in the enclosure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from e2e.cluster.host_mounts import HostMount

NAME = "llmservice"
CONTEXT = f"kind-{NAME}"
WORKERS = 2
GPUS = 8
GPU = "nvidia.com/gpu"
READY_TIMEOUT = "240s"

# For machines without CAP_SYS_RESOURCE; harmless elsewhere.
CONTAINERD_PATCH = """[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
"""
# A kubelet of 1.35 or newer refuses cgroup v1 otherwise; no effect on v2.
KUBELET_PATCH = {"kind": "KubeletConfiguration", "failCgroupV1": False}
# Nothing here outlives the cluster, so etcd need not wait for the disk.
ETCD_PATCH = {
    "kind": "ClusterConfiguration",
    "etcd": {"local": {"extraArgs": [{"name": "unsafe-no-fsync", "value": "true"}]}},
}


class Shell(Protocol):
    """Runs a program where the cluster can be reached; returns what it printed, raises when it fails."""

    def __call__(self, argv: list[str]) -> str: ...


def describe(mounts: Iterable[HostMount]) -> dict[str, Any]:
    """kind's configuration file."""
    worker = {"role": "worker", "extraMounts": [_mount(mount) for mount in mounts]}
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": NAME,
        "containerdConfigPatches": [CONTAINERD_PATCH],
        "kubeadmConfigPatches": [json.dumps(KUBELET_PATCH), json.dumps(ETCD_PATCH)],
        "nodes": [{"role": "control-plane"}, *[worker] * WORKERS],
    }


def _mount(mount: HostMount) -> dict[str, Any]:
    return {"hostPath": str(mount.source), "containerPath": str(mount.in_node), "readOnly": True}


def create(shell: Shell, *, config: Path, kubeconfig: Path, image: str | None) -> None:
    command = ["kind", "create", "cluster", "--config", str(config), "--kubeconfig", str(kubeconfig)]
    command += ["--wait", "180s", "--quiet"]
    shell([*command, "--image", image] if image else command)


def add_gpus(shell: Shell) -> None:
    """Kubelets keep what is in the status, across their own restarts too; a scheduler sees it at once."""
    amount = json.dumps(
        [
            {"op": "add", "path": f"/status/{field}/{GPU.replace('/', '~1')}", "value": str(GPUS)}
            for field in ("capacity", "allocatable")
        ]
    )
    for node in worker_names():
        shell(["kubectl", "patch", "node", node, "--subresource=status", "--type=json", f"--patch={amount}"])


def wait_for_pods(shell: Shell) -> None:
    shell(["kubectl", "wait", "--for=condition=Ready", "pods", "--all", "-A", f"--timeout={READY_TIMEOUT}"])


def worker_names() -> list[str]:
    return [f"{NAME}-worker", *(f"{NAME}-worker{number}" for number in range(2, WORKERS + 1))]


def pod_routes(shell: Shell) -> list[tuple[str, str]]:
    """For every node the range of its pods' addresses and its own address."""
    nodes = json.loads(shell(["kubectl", "get", "nodes", "-o", "json"]))["items"]
    return [(node["spec"]["podCIDR"], _internal_address(node)) for node in nodes]


def _internal_address(node: dict[str, Any]) -> str:
    return str(next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"))


def delete(shell: Shell) -> None:
    """Ours, by its name: a machine's docker engine may hold clusters of others."""
    shell(["kind", "delete", "cluster", "--name", NAME])
