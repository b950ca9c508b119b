"""A plain Prometheus for the cluster, as manifests: enough to scrape LLMServices, gone with its namespace.

It runs the very scrape configuration that users get (docs/prometheus-scrape.yaml), only oftener. Samples lie in the pod
and are lost with it. Never for production: no authentication, no alerts.
"""

from __future__ import annotations

import hashlib
from typing import Any

import yaml

from e2e.cluster.paths import REPOSITORY
from e2e.images import accounts

NAMESPACE = "monitoring"
NAME = "prometheus"
PORT = 9090
URL = f"http://{NAME}.{NAMESPACE}:{PORT}"
SCRAPE_INTERVAL_S = 5
"""Users are told 15 s. Here pods start in 20 s and a demo lasts minutes, so we look oftener."""
SCRAPE_FILE = REPOSITORY / "docs" / "prometheus-scrape.yaml"
FOLDER = "/etc/prometheus"
Manifest = dict[str, Any]


def configuration() -> str:
    """prometheus.yml; the jobs come from the users' file beside it."""
    every = f"{SCRAPE_INTERVAL_S}s"
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": every, "scrape_timeout": "4s"},
            "scrape_config_files": [SCRAPE_FILE.name],
        },
        sort_keys=False,
    )


def manifests(image: str) -> list[Manifest]:
    """Everything of the in-cluster Prometheus, in the order in which it can be applied."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        _object("v1", "ServiceAccount"),
        *_rights(),
        _object("v1", "ConfigMap", data=_files()),
        _object("v1", "Service", spec={"selector": _labels(), "ports": [{"name": "http", "port": PORT}]}),
        _object("apps/v1", "Deployment", spec=_deployment(image)),
    ]


def _object(api_version: str, kind: str, **parts: Any) -> Manifest:
    metadata = {"name": NAME, "namespace": NAMESPACE, "labels": _labels()}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **parts}


def _labels() -> dict[str, str]:
    return {"app.kubernetes.io/name": NAME}


def _files() -> dict[str, str]:
    return {"prometheus.yml": configuration(), SCRAPE_FILE.name: SCRAPE_FILE.read_text()}


def _rights() -> list[Manifest]:
    """Pods are all that it discovers, and it reads nothing else."""
    group = "rbac.authorization.k8s.io"
    name = {"name": f"llmservice-{NAME}", "labels": _labels()}
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
    return [
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": name, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": name,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name["name"]},
            "subjects": [subject],
        },
    ]


def _deployment(image: str) -> dict[str, Any]:
    return {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": _labels()},
        "template": {"metadata": {"labels": _labels(), "annotations": _configured()}, "spec": _pod(image)},
    }


def _configured() -> dict[str, str]:
    """Another configuration makes another pod: Prometheus reads its files only when it starts."""
    content = "".join(_files().values()).encode()
    return {"llmservice.dev/configuration": hashlib.sha256(content).hexdigest()[:12]}


def _pod(image: str) -> dict[str, Any]:
    return {
        "serviceAccountName": NAME,
        "terminationGracePeriodSeconds": 5,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": accounts.UID,
            "runAsGroup": accounts.UID,
            "fsGroup": accounts.UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(image)],
        "volumes": [
            {"name": "config", "configMap": {"name": NAME}},
            {"name": "data", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
    }


def _container(image: str) -> dict[str, Any]:
    return {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            f"--config.file={FOLDER}/prometheus.yml",
            "--storage.tsdb.path=/data",
            "--storage.tsdb.retention.time=6h",
            "--storage.tsdb.wal-compression",
        ],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": "http"}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/-/healthy", "port": "http"}, "failureThreshold": 6},
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "768Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "config", "mountPath": FOLDER, "readOnly": True},
            {"name": "data", "mountPath": "/data"},
        ],
    }
