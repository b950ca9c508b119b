"""The router before a real API server: how fast a change works, which rights are enough, a restart of the server."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import bare
from llmservice_api.resource import LLMService
from llmservice_core.contract import ANNOTATION_DRAIN
from llmservice_operator import child_router
from llmservice_serving.router import kube
from tests.serving.router_fake_api import in_cluster, pod, states
from tests.serving.router_fakes import Router, started, until

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.api


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bare.ControlPlane]:
    with bare.control_plane(tmp_path_factory.mktemp("api"), controllers=False) as cp:
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            cp.kubectl("apply", "--server-side", "-f", str(path))
        cp.kubectl("wait", "--for=condition=Established", "crd/llmservices.llmservice.dev", "--timeout=20s")
        cp.kubectl("apply", "-f", str(ROOT / "examples" / "chat.yaml"))
        yield cp


async def test_the_real_api_server(plane: bare.ControlPlane) -> None:
    """Pods are made and their status is written by hand; each change is timed from its write to its effect."""
    pods = "/api/v1/namespaces/default/pods"
    client, took_s = plane.client(), []

    async def write(call: Any, *arguments: Any, state: dict[str, str], r: Router) -> None:
        await asyncio.to_thread(call, *arguments)
        written_s = time.monotonic()
        await until(lambda: states(r) == state, timeout_s=1)
        took_s.append(time.monotonic() - written_s)

    async with started(in_cluster(plane.kubeconfig, 9)) as r:
        await until(lambda: r.shared.not_ready() is None, 10)
        assert [c.name for c in r.shared.configured().classes] == ["interactive", "batch"]
        container = {"name": "engine", "image": "none"}
        body = {"metadata": pod("a")["metadata"], "spec": {"containers": [container], "nodeName": "n"}}
        ready, leaving = {"status": pod("a")["status"]}, {"metadata": {"annotations": {ANNOTATION_DRAIN: "now"}}}
        await write(client.create, pods, body, state={"a": "not_ready"}, r=r)
        await write(client.patch, f"{pods}/a/status", ready, state={"a": "ready"}, r=r)
        await write(client.patch, f"{pods}/a", leaving, state={"a": "draining"}, r=r)
        back = {"metadata": {"annotations": {ANNOTATION_DRAIN: None}}}
        await write(client.patch, f"{pods}/a", back, state={"a": "ready"}, r=r)
        await write(client.delete, f"{pods}/a", state={"a": "draining"}, r=r)
        await write(client.delete, f"{pods}/a", {"gracePeriodSeconds": 0}, state={}, r=r)
        service = "/apis/llmservice.dev/v1alpha1/namespaces/default/llmservices/chat"
        classes = client.get(service)["spec"]["classes"]
        classes[0]["ttft"]["target"] = "123ms"
        await asyncio.to_thread(client.patch, service, {"spec": {"classes": classes}})
        await until(lambda: r.shared.configured().classes[0].ttft.target_s == 0.123, timeout_s=1)
    print(f"from write to effect: {max(took_s) * 1000:.0f} ms at most")


def router_account(plane: bare.ControlPlane, folder: Path) -> Path:
    """A kubeconfig with the ServiceAccount and exactly the rights that the operator gives a router."""
    service = LLMService.model_validate(json.loads(plane.kubectl("get", "llmsvc", "chat", "-o", "json")))
    account, *rights = child_router.account(service)
    for thing in (account, *rights):
        thing["metadata"].pop("ownerReferences", None)
        plane.kubectl("apply", "-n", "default", "-f", "-", stdin=json.dumps(thing))
    config = json.loads(plane.kubeconfig.read_text())
    token = plane.kubectl("create", "token", "-n", "default", account["metadata"]["name"]).strip()
    config["users"][0]["user"] = {"token": token}
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


async def test_the_rights_that_the_operator_grants_are_enough_and_few(plane: bare.ControlPlane, tmp_path: Path) -> None:
    kubeconfig = router_account(plane, tmp_path)
    async with started(in_cluster(kubeconfig, 9)) as r:
        await until(lambda: r.shared.not_ready() is None, 10)
        assert r.shared.configured().classes
    client = kube.Kube(kube.find_access(str(kubeconfig)))
    for path in ("/api/v1/namespaces/default/secrets", "/api/v1/pods", "/apis/apps/v1/namespaces/default/deployments"):
        with pytest.raises(kube.ApiError, match="403"):
            await client._list(path, {})
    await client.close()


async def test_the_router_outlives_a_restart_of_the_api_server(plane: bare.ControlPlane) -> None:
    pods, client = "/api/v1/namespaces/default/pods", plane.client()
    async with started(in_cluster(plane.kubeconfig, 9)) as r:
        await until(lambda: r.shared.not_ready() is None, 10)
        await asyncio.to_thread(plane.restart_apiserver)
        body = {"metadata": pod("b")["metadata"], "spec": {"containers": [{"name": "engine", "image": "none"}]}}
        await asyncio.to_thread(client.create, pods, body)
        await until(lambda: states(r) == {"b": "not_ready"}, timeout_s=8)
