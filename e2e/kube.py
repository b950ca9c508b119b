"""What tests and the demo ask of a cluster: apply, read, wait. The kubeconfig is that of the environment."""

import json
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import yaml

from llmservice_core import contract

Manifest = Mapping[str, Any]


class KubectlError(RuntimeError):
    """kubectl said no; the message is its own."""


def kubectl(*args: str, stdin: str | None = None, timeout_s: float = 120) -> str:
    done = subprocess.run(["kubectl", *args], input=stdin, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        raise KubectlError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


def apply(*manifests: Manifest) -> None:
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))


def get(*args: str) -> Any:
    return json.loads(kubectl("get", *args, "-o", "json"))


def service(namespace: str, name: str) -> Any:
    return get("-n", namespace, f"{contract.PLURAL}.{contract.GROUP}", name)


def pods(namespace: str, name: str, **labels: str) -> list[Any]:
    wanted = {contract.LABEL_NAME: name, **{f"{contract.GROUP}/{key}": value for key, value in labels.items()}}
    selector = ",".join(f"{key}={value}" for key, value in wanted.items())
    return list(get("-n", namespace, "pods", "-l", selector)["items"])


def is_ready(pod: Any) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def condition(resource: Any, kind: str) -> str | None:
    conditions = resource.get("status", {}).get("conditions", [])
    return next((c["status"] for c in conditions if c["type"] == kind), None)


def wait_for(what: str, predicate: Callable[[], Any], timeout_s: float, every_s: float = 1.0) -> Any:
    """Poll until the predicate gives something true; its value. TimeoutError says what was waited for."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if value := predicate():
            return value
        time.sleep(every_s)
    raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")


def expose(namespace: str, name: str) -> str:
    """Reach a service's router from outside the cluster: a NodePort beside the operator's own Service; the URL."""
    apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"{name}-outside", "namespace": namespace},
            "spec": {
                "type": "NodePort",
                "selector": {contract.LABEL_NAME: name, contract.LABEL_COMPONENT: contract.COMPONENT_ROUTER},
                "ports": [{"name": "http", "port": 80, "targetPort": contract.PORT_ROUTER_HTTP}],
            },
        }
    )
    port = get("-n", namespace, "service", f"{name}-outside")["spec"]["ports"][0]["nodePort"]
    address = node_address()
    wait_for(f"port {port} of node {address}", lambda: _accepts(address, port), 30, every_s=0.2)
    return f"http://{address}:{port}"


def _accepts(address: str, port: int) -> bool:
    """kube-proxy opens a NodePort a moment after the Service was made."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def node_address() -> str:
    node = get("nodes")["items"][0]
    return next(str(a["address"]) for a in node["status"]["addresses"] if a["type"] == "InternalIP")


def pod_metrics(namespace: str, pod: str, port: int) -> dict[str, float]:
    """Sample name with labels -> value, read through the API server's proxy."""
    text = kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics")
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in rows}


def prometheus(query: str) -> list[tuple[dict[str, str], float]]:
    """An instant query to the cluster's Prometheus, through the API server's proxy."""
    path = "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/query"
    reply = json.loads(kubectl("get", "--raw", f"{path}?query={quote(query)}"))
    return [(row["metric"], float(row["value"][1])) for row in reply["data"]["result"]]
