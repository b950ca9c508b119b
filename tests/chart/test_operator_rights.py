"""The real operator under the chart's own ServiceAccount: a right that is missing from the chart fails here."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.bare import ControlPlane
from tests.chart.conftest import CHART, IMAGE, ROOT, helm

pytestmark = pytest.mark.api
CHILDREN = "deployments,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets"
TIMEOUT_S = 40.0


def kubeconfig_of(plane: ControlPlane, namespace: str, folder: Path) -> Path:
    """A kubeconfig that holds nothing but the token of the chart's ServiceAccount."""
    token = plane.kubectl("-n", namespace, "create", "token", "llmservice-operator").strip()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    path = folder / "operator.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def operator(kubeconfig: Path, log: Path, **settings: str) -> Iterator[None]:
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "LLMSERVICE_HTTP_PORT": "0",
        "LLMSERVICE_ENGINE_IMAGE": "engine:1",
        "LLMSERVICE_ROUTER_IMAGE": "router:1",
        **settings,
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmservice_operator"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def installed(plane: ControlPlane, namespace: str, *values: str) -> Iterator[None]:
    access = ["--namespace", namespace, "--kubeconfig", str(plane.kubeconfig)]
    sets = [part for value in (f"image.repository={IMAGE}", *values) for part in ("--set", value)]
    helm("install", "llmservice", str(CHART), "--create-namespace", "--take-ownership", *access, *sets)
    try:
        yield
    finally:
        helm("uninstall", "llmservice", *access)


def children(plane: ControlPlane, namespace: str) -> set[tuple[str, str]]:
    listed = json.loads(plane.kubectl("-n", namespace, "get", CHILDREN, "-o", "json"))["items"]
    return {(item["kind"], item["metadata"]["name"]) for item in listed if "ownerReferences" in item["metadata"]}


def eventually(what: str, holds: Callable[[], Any], log: Path) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s, f"{what} did not come; the operator said:\n{log.read_text()[-3000:]}"
        time.sleep(0.2)


def status_of(plane: ControlPlane, namespace: str) -> Any:
    return json.loads(plane.kubectl("-n", namespace, "get", "llmsvc", "small", "-o", "json")).get("status")


MODES = {
    "cluster-wide": ("team-a", "operator-a", ["crds.create=true"]),
    "one namespace": ("team-b", "operator-b", ["watchNamespaces={team-b}", "crds.create=false"]),
    "its own namespace": ("team-c", "team-c", ["namespaced=true", "crds.create=false"]),
}
"""Where services live, where the operator does, and how the chart is told."""


@pytest.mark.parametrize("mode", MODES)
def test_the_operator_works_with_the_rights_of_the_chart(plane: ControlPlane, tmp_path: Path, mode: str) -> None:
    namespace, own, values = MODES[mode]
    only = mode != "cluster-wide"
    log = tmp_path / "operator.log"
    plane.kubectl("create", "namespace", namespace)
    settings = {"LLMSERVICE_WATCH_NAMESPACES": namespace} if only else {}
    plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds")) if only else None
    with installed(plane, own, *values), operator(kubeconfig_of(plane, own, tmp_path), log, **settings):
        plane.kubectl("-n", namespace, "apply", "-f", str(ROOT / "examples" / "minimal.yaml"))
        eventually("status", lambda: status_of(plane, namespace), log)
        eventually("pools", lambda: len([k for k, _ in children(plane, namespace) if k == "Deployment"]) == 3, log)
        kinds = {kind for kind, _ in children(plane, namespace)}
        plane.kubectl("-n", namespace, "delete", "service", "small")
        eventually("the Service again", lambda: ("Service", "small") in children(plane, namespace), log)
    assert kinds >= {"Deployment", "Service", "ServiceAccount", "Role", "RoleBinding", "PodDisruptionBudget"}
    forbidden = [line for line in log.read_text().splitlines() if "forbidden" in line.lower()]
    assert [line for line in forbidden if "customresourcedefinitions" not in line] == []
    assert only or not forbidden
