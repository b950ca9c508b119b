"""The users' scrape jobs against a real API server: Prometheus itself says which targets they find, and as what.

The pods are those that the operator renders and the chart installs, so a port or label that is renamed fails here.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.bare import ControlPlane
from e2e.prometheus import fetch
from llmservice_api.resource import parse
from llmservice_core import contract
from llmservice_core.model import Pool
from llmservice_operator import children
from llmservice_operator.settings import Settings
from tests.chart.conftest import CHART, IMAGE, ROOT, helm

pytestmark = [pytest.mark.api, pytest.mark.prometheus]
SETTINGS = Settings(engine_image="engine:1", router_image="router:1")
NAMESPACE = "scraped"


@pytest.fixture(scope="module")
def running(plane: ControlPlane) -> Iterator[ControlPlane]:
    """One service with two prefill and one decode pod, its router, and the operator, all Running."""
    plane.kubectl("create", "namespace", NAMESPACE)
    body = yaml.safe_load((ROOT / "examples" / "minimal.yaml").read_text())
    service = parse(body | {"metadata": {"name": "small", "namespace": NAMESPACE}})
    made = children.render(service, SETTINGS, children.look(service, SETTINGS), {Pool.PREFILL: 2, Pool.DECODE: 1})
    for manifest in made:
        manifest["metadata"].pop("ownerReferences")  # there is no LLMService that they could belong to
    plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(made))
    access = ["--namespace", NAMESPACE, "--kubeconfig", str(plane.kubeconfig)]
    helm("install", "llmservice", str(CHART), "--set", f"image.repository={IMAGE}", "--take-ownership", *access)
    plane.kubectl("-n", NAMESPACE, "wait", "deployments", "--all", "--for=condition=Available", "--timeout=30s")
    yield plane
    helm("uninstall", "llmservice", *access)
    plane.kubectl("delete", "namespace", NAMESPACE)


def targets(plane: ControlPlane, folder: Path, job: str) -> list[dict[str, str]]:
    """Labels of the targets that the job keeps."""
    config = yaml.safe_load((ROOT / "docs" / "prometheus-scrape.yaml").read_text())
    for one in config["scrape_configs"]:
        one["kubernetes_sd_configs"][0]["kubeconfig_file"] = str(plane.kubeconfig)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    command = [str(fetch.promtool()), "check", "service-discovery", "--timeout=2s", str(path), job]
    found: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return [one["labels"] for one in found if one.get("labels")]


@pytest.mark.parametrize(
    ("job", "port", "pods"),
    [
        ("llmservice-engines", contract.PORT_ENGINE_METRICS, ["small-decode", "small-prefill", "small-prefill"]),
        ("llmservice-vllm", contract.PORT_ENGINE_HTTP, ["small-decode", "small-prefill", "small-prefill"]),
        ("llmservice-routers", contract.PORT_ROUTER_METRICS, ["small-router"]),
        ("llmservice-operator", contract.PORT_OPERATOR, ["llmservice-operator"]),
    ],
)
def test_each_job_finds_its_pods_once(
    running: ControlPlane, tmp_path: Path, job: str, port: int, pods: list[str]
) -> None:
    found = targets(running, tmp_path, job)
    assert {label["__address__"].rpartition(":")[2] for label in found} == {str(port)}
    assert {label["namespace"] for label in found} == {NAMESPACE}
    names = sorted(label["pod"] for label in found)
    assert [name.startswith(prefix) for name, prefix in zip(names, pods, strict=True)] == [True] * len(pods)
    assert len(set(names)) == len(pods)
