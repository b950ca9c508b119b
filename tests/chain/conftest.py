"""A real cluster with the chart installed (`python -m e2e.install`), and one disaggregated service that tests share."""

import fcntl
import os
from collections.abc import Iterator
from typing import Any

import pytest

from e2e import kube
from e2e.chain import services
from e2e.cluster import state
from e2e.demo.chat import wait_ready


@pytest.fixture(scope="session")
def alone() -> Iterator[None]:
    """One session at a time: they share the namespace, and stop the operator and Prometheus."""
    state.folder().mkdir(parents=True, exist_ok=True)
    with (state.folder() / ".chain.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def cluster(alone: None) -> None:
    """Fails where it would skip if every tier was asked for."""
    try:
        kube.kubectl("get", "crd", "llmservices.llmservice.dev", timeout_s=20)
    except (OSError, kube.KubectlError) as error:
        message = f"no cluster with the chart installed (`make cluster`, `python -m e2e.install`): {error}"
        if os.environ.get("LLMSERVICE_REQUIRE_ALL"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def namespace(cluster: None) -> Iterator[str]:
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": services.NAMESPACE}})
    yield services.NAMESPACE
    kube.kubectl("-n", services.NAMESPACE, "delete", "llmsvc", "--all", timeout_s=60)
    kube.wait_for("the pods to end", lambda: not kube.get("-n", services.NAMESPACE, "pods")["items"], 180)
    kube.kubectl("delete", "namespace", services.NAMESPACE, "--wait=false")


@pytest.fixture(scope="session")
def tiny(namespace: str) -> dict[str, Any]:
    """Service `tiny`: one prefill and one decode pod of the tiny model, Ready."""
    kube.apply(services.disaggregated("tiny"))
    return wait_ready(namespace, "tiny", 240)


@pytest.fixture(scope="session")
def url(tiny: dict[str, Any], namespace: str) -> str:
    return kube.expose(namespace, "tiny")
