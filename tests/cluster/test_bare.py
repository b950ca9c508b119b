"""The bare control plane does what tests of an operator rely on: controllers, fake GPU pods, restarts, counts."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import processes
from e2e.cluster.bare import ControlPlane, control_plane
from e2e.cluster.fake_nodes import Behaviour, Node

pytestmark = [pytest.mark.api, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    nodes = [Node(name="gpu-1", gpus=8), Node(name="gpu-2", gpus=8)]
    with control_plane(tmp_path_factory.mktemp("bare"), nodes=nodes, start_s=0.1) as cp:
        yield cp


def deployment(name: str, replicas: int, gpus: int) -> str:
    container = {"name": "c", "image": "x", "resources": {"limits": {"nvidia.com/gpu": gpus}}}
    return json.dumps(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
            },
        }
    )


def read(plane: ControlPlane, *arguments: str) -> Any:
    return json.loads(plane.kubectl("get", *arguments, "-o", "json"))


def pods_of(plane: ControlPlane, app: str) -> list[Any]:
    items: list[Any] = read(plane, "pods", "-l", f"app={app}")["items"]
    return items


def is_ready(pod: Any) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def until(holds: Callable[[], bool], patience_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.1)


def test_it_is_ready_within_seconds(tmp_path: Path) -> None:
    began_s = time.monotonic()
    with control_plane(tmp_path, nodes=[Node(name="gpu-1")]) as cp:
        took_s = time.monotonic() - began_s
        assert "gpu-1" in cp.kubectl("get", "nodes", "-o", "name")
        running = list(cp.running.values())
    assert took_s < 20
    assert not any(processes.is_running(process) for process in running)


def test_a_deployment_with_gpus_becomes_ready_and_goes_with_its_pods(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=deployment("web", replicas=3, gpus=2))
    until(lambda: sum(map(is_ready, pods_of(plane, "web"))) == 3)
    addresses = {pod["status"]["podIP"] for pod in pods_of(plane, "web")}
    assert len(addresses) == 3
    plane.kubectl("delete", "deployment", "web")
    until(lambda: not pods_of(plane, "web"))


def test_pods_beyond_the_gpus_stay_unschedulable_until_gpus_come(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=deployment("big", replicas=3, gpus=8))
    until(lambda: sum(map(is_ready, pods_of(plane, "big"))) == 2)
    [waiting] = [pod for pod in pods_of(plane, "big") if not is_ready(pod)]
    assert waiting["status"]["conditions"][0]["reason"] == "Unschedulable"
    plane.nodes.set_gpus("gpu-1", 16)
    until(lambda: sum(map(is_ready, pods_of(plane, "big"))) == 3)
    plane.nodes.set_gpus("gpu-1", 8)
    plane.kubectl("delete", "deployment", "big")
    until(lambda: not pods_of(plane, "big"))


def test_scripted_pods_start_slowly_or_never_or_crash(plane: ControlPlane) -> None:
    plane.nodes.behave({"app": "slow"}, Behaviour(start_s=0.1, ready_s=1.5))
    plane.nodes.behave({"app": "stuck"}, Behaviour(start_s=None))
    plane.nodes.behave({"app": "crashy"}, Behaviour(start_s=0.1, crash_s=0.3))
    for app in ("slow", "stuck", "crashy"):
        plane.kubectl("apply", "-f", "-", stdin=deployment(app, replicas=1, gpus=0))
    until(lambda: any(pod["status"]["phase"] == "Running" for pod in pods_of(plane, "slow")))
    assert not is_ready(pods_of(plane, "slow")[0])
    until(lambda: is_ready(pods_of(plane, "slow")[0]))
    until(lambda: pods_of(plane, "crashy")[0]["status"]["containerStatuses"][0]["restartCount"] >= 2)
    assert pods_of(plane, "stuck")[0]["status"]["phase"] == "Pending"
    plane.kubectl("delete", "deployment", "slow", "stuck", "crashy")


def test_a_lost_node_takes_its_pods_out_of_ready_and_gives_them_back(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=deployment("pair", replicas=1, gpus=1))
    until(lambda: sum(map(is_ready, pods_of(plane, "pair"))) == 1)
    node = pods_of(plane, "pair")[0]["spec"]["nodeName"]
    plane.nodes.lose(node)
    until(lambda: not is_ready(pods_of(plane, "pair")[0]))
    plane.nodes.restore(node)
    until(lambda: is_ready(pods_of(plane, "pair")[0]))
    plane.kubectl("delete", "deployment", "pair")


def test_the_api_server_restarts_on_its_port_and_everything_goes_on(plane: ControlPlane) -> None:
    port = plane.layout.port
    plane.restart_apiserver()
    assert plane.layout.port == port
    plane.kubectl("apply", "-f", "-", stdin=deployment("after", replicas=2, gpus=1))
    until(lambda: sum(map(is_ready, pods_of(plane, "after"))) == 2)
    plane.kubectl("delete", "deployment", "after")


def test_writes_are_counted_with_who_made_them(plane: ControlPlane) -> None:
    before = len(plane.writes())
    plane.kubectl("create", "configmap", "counted")
    plane.kubectl("get", "configmap", "counted")
    made = [write for write in plane.writes()[before:] if write.user == "admin" and write.name == "counted"]
    assert [(write.verb, write.resource, write.code) for write in made] == [("create", "configmaps", 201)]
    assert made[0].agent.startswith("kubectl/")
