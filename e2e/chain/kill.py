"""SIGKILL to what runs in a pod, as a crash does it: no hook, no grace; the kubelet starts the container again."""

import subprocess
from typing import Any

from e2e import kube

CONTROL_PLANE = "llmservice-control-plane"
NOTICED_S = 30.0


def sigkill(pod: Any) -> None:
    """The first process of the pod's first container, with which all others of the container end."""
    container = container_id(pod)
    if container is None:
        raise ValueError(f"pod {pod['metadata']['name']} has no running container")
    node = pod["spec"]["nodeName"]
    kill = ["ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container]
    subprocess.run(["docker", "exec", node, *kill], check=True, capture_output=True, timeout=30)


def container_id(pod: Any) -> str | None:
    """Of the running first container; None while there is none."""
    statuses = pod["status"].get("containerStatuses") or [{}]
    if "running" not in statuses[0].get("state", {}):
        return None
    return str(statuses[0]["containerID"]).removeprefix("containerd://")


def sigkill_and_see(namespace: str, pod: Any) -> None:
    """Returns when Kubernetes has noticed, so that a pod that is Ready afterwards is one that came back."""
    name, before = pod["metadata"]["name"], container_id(pod)
    sigkill(pod)
    kube.wait_for(
        f"the kubelet to notice that {name} died",
        lambda: container_id(kube.get("-n", namespace, "pod", name)) != before,
        NOTICED_S,
        every_s=0.5,
    )


def api_server() -> Any:
    """The pod of the cluster's API server."""
    return kube.get("-n", "kube-system", "pod", f"kube-apiserver-{CONTROL_PLANE}")
