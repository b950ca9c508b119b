"""Our scrape configuration, judged by Prometheus itself, and our metrics against their page in the docs."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.bare import ControlPlane
from e2e.prometheus import fetch, manifests
from llmservice_core import contract, metric_names
from tests.chart.conftest import ROOT

SCRAPE = ROOT / "docs" / "prometheus-scrape.yaml"
JOBS: dict[str, dict[str, Any]] = {job["job_name"]: job for job in yaml.safe_load(SCRAPE.read_text())["scrape_configs"]}


def all_metrics() -> set[str]:
    constants = {name: value for name, value in vars(metric_names).items() if name.isupper()}
    return {v for v in constants.values() if isinstance(v, str) and v.startswith("llmservice_")}


def kept_ports(job: str) -> str:
    for rule in JOBS[job]["relabel_configs"]:
        if rule["source_labels"] == ["__meta_kubernetes_pod_container_port_number"]:
            return str(rule["regex"])
    raise AssertionError(f"{job} takes every port")


@pytest.mark.prometheus
def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    for name, text in manifests.manifests("image:1")[4]["data"].items():
        (tmp_path / name).write_text(text)
    command = [str(fetch.promtool()), "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert SCRAPE.name in (tmp_path / "prometheus.yml").read_text()


@pytest.mark.prometheus
def test_promtool_refuses_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(manifests.configuration())
    (tmp_path / SCRAPE.name).write_text(SCRAPE.read_text().replace("action: keep", "action: kep", 1))
    command = [str(fetch.promtool()), "check", "config", str(tmp_path / "prometheus.yml")]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize(
    ("job", "port"),
    [
        ("llmservice-engines", contract.PORT_ENGINE_METRICS),
        ("llmservice-routers", contract.PORT_ROUTER_METRICS),
        ("llmservice-operator", contract.PORT_OPERATOR),
        ("llmservice-vllm", contract.PORT_ENGINE_HTTP),
    ],
)
def test_each_job_takes_the_port_of_its_component(job: str, port: int) -> None:
    assert re.fullmatch(kept_ports(job), str(port))


@pytest.mark.parametrize(
    ("job", "component"),
    [
        ("llmservice-engines", contract.COMPONENT_ENGINE),
        ("llmservice-routers", contract.COMPONENT_ROUTER),
        ("llmservice-vllm", contract.COMPONENT_ENGINE),
    ],
)
def test_each_job_discovers_its_component(job: str, component: str) -> None:
    (discovery,) = JOBS[job]["kubernetes_sd_configs"]
    assert discovery["selectors"] == [{"role": "pod", "label": f"{contract.LABEL_COMPONENT}={component}"}]


def test_target_labels_never_hide_ours() -> None:
    ours = {metric_names.LLMSERVICE, metric_names.POOL, metric_names.CLASS, *metric_names.SLO_LABELS}
    targets = {
        rule["target_label"] for job in JOBS.values() for rule in job["relabel_configs"] if "target_label" in rule
    }
    assert {"pod", "namespace"} <= targets
    assert not targets & ours
    assert not any(job.get("honor_labels") for job in JOBS.values())


def test_every_metric_of_ours_is_kept() -> None:
    (rule,) = JOBS["llmservice-engines"]["metric_relabel_configs"]
    assert all(re.fullmatch(rule["regex"], name) for name in all_metrics())


def test_the_page_on_metrics_names_each_of_them_once() -> None:
    named = re.findall(r"^\| `(llmservice_[a-z_]+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(all_metrics())


@pytest.mark.api
def test_the_api_server_takes_the_manifests(plane: ControlPlane) -> None:
    text = yaml.safe_dump_all(manifests.manifests("localhost/prometheus:1"))
    plane.kubectl("apply", "--server-side", "-f", "-", stdin=text)
    plane.kubectl("-n", manifests.NAMESPACE, "rollout", "status", f"deployment/{manifests.NAME}", "--timeout=30s")
    service = yaml.safe_load(plane.kubectl("-n", manifests.NAMESPACE, "get", "service", manifests.NAME, "-o", "yaml"))
    assert f"http://{service['metadata']['name']}.{manifests.NAMESPACE}:{service['spec']['ports'][0]['port']}" == (
        manifests.URL
    )
