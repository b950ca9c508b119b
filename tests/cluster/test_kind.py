"""The kind cluster is a real one: networking over nodes, DNS, GPUs, storage, limits, and files of this machine."""

import sys
from typing import Any

import pytest

from e2e.cluster import host_mounts
from e2e.cluster.cluster import Cluster
from tests.cluster.conftest import IMAGE, Room, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

GPU = "nvidia.com/gpu"
SERVE = "hostname > /www/index.html; exec httpd -f -p 8080 -h /www"
FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode().strip())"


def container(command: str, **fields: Any) -> dict[str, Any]:
    shell = ["/bin/sh", "-c", f"PATH=/bin; {command}"]
    return {"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": shell, **fields}


def pod(name: str, command: str, *, volumes: list[Any] | None = None, **fields: Any) -> dict[str, Any]:
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "containers": [container(command, **fields)],
        "volumes": volumes or [],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def web(room: Room) -> list[Any]:
    """A Service with one pod on each worker; the pods."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    probe = {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1}
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "topologySpreadConstraints": [spread],
            "terminationGracePeriodSeconds": 0,
            "containers": [container(SERVE, readinessProbe=probe)],
        },
    }
    room.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {
                "type": "NodePort",
                "selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": 8080}],
            },
        },
        pod("client", "sleep 3600"),
    )
    room.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    room.wait_ready("pod/client")
    found: list[Any] = room.get("pods", "-l", "app=web")["items"]
    return found


def test_three_nodes_are_ready_and_the_workers_have_eight_gpus_each(kind: Cluster) -> None:
    nodes = kind.get("nodes")["items"]
    ready = [c["status"] for node in nodes for c in node["status"]["conditions"] if c["type"] == "Ready"]
    gpus = sorted(node["status"]["allocatable"].get(GPU, "0") for node in nodes)
    assert ready == ["True"] * 3
    assert gpus == ["0", "8", "8"]


def test_a_service_name_leads_to_pods_on_both_workers(room: Room, web: list[Any]) -> None:
    assert len({item["spec"]["nodeName"] for item in web}) == 2
    url = f"http://web.{room.namespace}.svc.cluster.local/"
    wanted = {item["metadata"]["name"] for item in web}
    answered: set[str] = set()

    def both_answered() -> bool:
        answered.add(room.kubectl("exec", "client", "--", "wget", "-q", "-T", "5", "-O", "-", url).strip())
        return answered == wanted

    until(both_answered)


def test_node_ports_and_pod_addresses_answer_to_commands_run_with_exec(room: Room, web: list[Any]) -> None:
    port = room.get("service", "web")["spec"]["ports"][0]["nodePort"]
    names = {item["metadata"]["name"] for item in web}
    for item in web:
        node, address = item["status"]["hostIP"], item["status"]["podIP"]
        assert fetch(room.cluster, f"http://{node}:{port}/") in names
        assert fetch(room.cluster, f"http://{address}:8080/") == item["metadata"]["name"]


def fetch(cluster: Cluster, url: str) -> str:
    return cluster.run([sys.executable, "-c", FETCH, url]).strip()


def test_a_gpu_pod_runs_on_a_worker_and_one_that_wants_seventeen_waits(room: Room) -> None:
    room.apply(
        pod("two", "sleep 3600", resources={"limits": {GPU: 2}}),
        pod("seventeen", "sleep 3600", resources={"limits": {GPU: 17}}),
    )
    room.wait_ready("pod/two")
    assert "worker" in room.get("pod", "two")["spec"]["nodeName"]
    waiting = room.get("pod", "seventeen")["status"]
    [scheduled] = [c for c in waiting["conditions"] if c["type"] == "PodScheduled"]
    assert (waiting["phase"], scheduled["reason"]) == ("Pending", "Unschedulable")
    assert f"Insufficient {GPU}" in scheduled["message"]


def test_a_volume_keeps_its_data_when_the_pod_is_replaced(room: Room) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    mounts = [{"name": "data", "mountPath": "/data"}]
    room.apply(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": claim},
        pod("writer", "touch /data/kept; sleep 3600", volumes=volumes, volumeMounts=mounts),
    )
    room.wait_ready("pod/writer")
    room.kubectl("delete", "pod", "writer")
    room.apply(pod("reader", "ls /data; sleep 3600", volumes=volumes, volumeMounts=mounts))
    room.wait_ready("pod/reader")
    assert room.kubectl("logs", "reader").split() == ["kept"]


def test_a_container_over_its_memory_limit_is_killed(room: Room) -> None:
    room.apply(pod("greedy", "tail /dev/zero", resources={"limits": {"memory": "32Mi"}}))

    def killed_for_memory() -> bool:
        states = room.get("pod", "greedy")["status"].get("containerStatuses", [])
        return any(s["state"].get("terminated", {}).get("reason") == "OOMKilled" for s in states)

    until(killed_for_memory)


def test_workers_see_the_machines_programs_and_cannot_change_them(room: Room) -> None:
    place = str(host_mounts.PREFIX / "usr")
    volumes = [{"name": "usr", "hostPath": {"path": place, "type": "Directory"}}]
    mounts = [{"name": "usr", "mountPath": "/usr"}]
    command = "ls /usr/bin/openssl; touch /usr/changed || echo refused; sleep 3600"
    room.apply(pod("guest", command, volumes=volumes, volumeMounts=mounts))
    room.wait_ready("pod/guest")
    until(lambda: "refused" in room.kubectl("logs", "guest"))
    assert "/usr/bin/openssl" in room.kubectl("logs", "guest")
