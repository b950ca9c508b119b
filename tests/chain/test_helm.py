"""`helm upgrade` and `helm uninstall` under a running service: pod for pod it goes on, and is found again."""

import dataclasses
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from e2e import install, kube
from e2e.cluster import cluster as cluster_
from e2e.images import operator_image, recipe
from llmservice_core import contract
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


@contextmanager
def asking(url: str) -> Iterator[list[str]]:
    """One question after the other, each on a connection of its own, none repeated; what failed is in the list."""
    failed: list[str] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                ask(url)
            except openai.OpenAIError as error:
                failed.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield failed
    finally:
        stop.set()
        thread.join(90)


def routers(namespace: str) -> dict[str, str]:
    """Name -> image of the routers that serve."""
    found = [p for p in kube.pods(namespace, "tiny", component=contract.COMPONENT_ROUTER) if kube.is_ready(p)]
    return {p["metadata"]["name"]: p["spec"]["containers"][0]["image"] for p in found}


def test_an_upgrade_to_another_image_rolls_the_router_without_a_failed_request(
    url: str, namespace: str, values: Path
) -> None:
    """Routers run the operator's image, so they follow it; engines name their own and go on, pod for pod."""
    recipe_ = dataclasses.replace(operator_image.recipe(), version="9.9.9")
    image = recipe.build(recipe_)
    cluster_.current().load_image(image.archive)
    repository, tag = image.reference.rsplit(":", 1)
    engines = {n: u for n, u in pods(namespace).items() if n not in routers(namespace)}
    assert len(engines) == 2
    with asking(url) as failed:
        sets = [f"image.repository={repository}", f"image.tag={tag}"]
        flags = [part for value in sets for part in ("--set-string", value)]
        helm("upgrade", install.RELEASE, str(install.CHART), "--values", str(values), *flags)
        operator_ready()
        kube.wait_for("the new router", lambda: list(routers(namespace).values()) == [image.reference], 90)
        time.sleep(SETTLE_S)
    assert failed == []
    assert {n: u for n, u in pods(namespace).items() if n not in routers(namespace)} == engines


def test_upgrade_and_uninstall_leave_pods_and_traffic_alone(url: str, namespace: str, values: Path) -> None:
    kube.wait_for("routers of an earlier image to be gone", lambda: len(pods(namespace)) == 3, 150)
    before, answer = pods(namespace), ask(url)
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
