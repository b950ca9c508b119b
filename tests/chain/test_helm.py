"""`helm upgrade` and `helm uninstall` under a running service: pod for pod it goes on, and is found again."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import install, kube
from tests.chain.test_faults import ask

pytestmark = pytest.mark.cluster
SETTLE_S = 15.0
"""Three rounds of the operator: time enough to break something."""


def helm(*arguments: str) -> str:
    command = ["helm", *arguments, "--namespace", install.OPERATOR_NAMESPACE]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=180).stdout


def pods(namespace: str) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in kube.pods(namespace, "tiny")}


def operator_ready() -> None:
    deployment = f"deployment/{install.OPERATOR_DEPLOYMENT}"
    kube.kubectl("-n", install.OPERATOR_NAMESPACE, "rollout", "status", deployment, "--timeout=120s", timeout_s=130)


@pytest.fixture
def values(cluster: None, tmp_path: Path) -> Iterator[Path]:
    """The release's own values in a file; afterwards the release is there again as it was."""
    path = tmp_path / "values.yaml"
    path.write_text(helm("get", "values", install.RELEASE, "-o", "yaml"))
    yield path
    helm("upgrade", "--install", install.RELEASE, str(install.CHART), "--values", str(path))
    operator_ready()


def test_upgrade_and_uninstall_leave_pods_and_traffic_alone(url: str, namespace: str, values: Path) -> None:
    before, answer = pods(namespace), ask(url)
    assert len(before) == 3
    helm("upgrade", install.RELEASE, str(install.CHART), "--values", str(values), "--set", "logLevel=debug")
    operator_ready()
    time.sleep(SETTLE_S)
    assert (pods(namespace), ask(url)) == (before, answer)
    helm("uninstall", install.RELEASE, "--wait")
    assert kube.get("-n", install.OPERATOR_NAMESPACE, "deployments")["items"] == []
    time.sleep(SETTLE_S)
    assert (pods(namespace), ask(url)) == (before, answer)
    helm("install", install.RELEASE, str(install.CHART), "--values", str(values))
    operator_ready()
    time.sleep(SETTLE_S)
    assert (pods(namespace), ask(url)) == (before, answer)
    assert kube.condition(kube.service(namespace, "tiny"), "Ready") == "True"
