"""Restarts, deletions, idleness, and the surroundings in which the operator starts; API server and rights are real."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.bare import ControlPlane
from e2e.cluster.fake_nodes import Behaviour
from tests.control.fake_prometheus import FakePrometheus
from tests.control.support import (
    CRD,
    Api,
    Operator,
    engine,
    eventually,
    grant_rights,
    install_crd,
    measured,
    ready,
    service,
)

pytestmark = [pytest.mark.api, pytest.mark.timeout(900)]

IDLE_S = float(os.environ.get("LLMSERVICE_IDLE_S", "300"))
"""Five minutes, several heartbeats of anything that has one; a shorter wait is for work on the test itself."""


def spelt_otherwise() -> dict[str, Any]:
    """The API server keeps these amounts as 1 and 1Gi."""
    resources = {"requests": {"cpu": "1000m", "memory": "1024Mi"}}
    body = service()
    body["spec"]["pools"]["decode"]["template"] = {
        "spec": {"containers": [{"name": "engine", "resources": resources}], "volumes": []}
    }
    return body


@pytest.mark.idle
def test_an_idle_service_costs_no_writes(running: Operator, api: Api) -> None:
    """Nor does steady traffic, whose numbers sway as real ones do, but for a status once a minute at most."""
    prometheus = FakePrometheus()
    prometheus.factor, prometheus.wobble = 0.6, 0.05
    try:
        api.create(spelt_otherwise())
        api.create(measured(prometheus.url, "busy"))
        ready(api), ready(api, "busy")
        eventually(lambda: api.told("busy", "MetricsAvailable", "True"))
        time.sleep(20)
        before, asked = len(running.writes()), prometheus.asked
        time.sleep(IDLE_S)
        written = running.writes()[before:]
    finally:
        prometheus.stop()
    assert prometheus.asked > asked, "decisions went on"
    busy = [w for w in written if w == f"patch llmservices/status {api.namespace}/busy 200"]
    assert [w for w in written if w not in busy] == []
    assert len(busy) <= IDLE_S / 60 + 1


def test_a_killed_operator_loses_and_doubles_nothing(running: Operator, api: Api) -> None:
    api.create(spelt_otherwise())
    before = ready(api)
    decode = engine(api, "decode")
    generations = {i["metadata"]["name"]: i["metadata"]["generation"] for i in api.items("deploy")}
    time.sleep(2)
    running.stop(signal.SIGKILL)
    api("delete", "svc", "chat-decode")
    written = len(running.writes())
    running.start()
    eventually(lambda: "Service/chat-decode" in api.children())
    time.sleep(6)
    after = api.children()
    assert {n: u for n, u in after.items() if n != "Service/chat-decode"} == {
        n: u for n, u in before.items() if n != "Service/chat-decode"
    }
    assert {i["metadata"]["name"]: i["metadata"]["generation"] for i in api.items("deploy")} == generations
    children_written = [w for w in running.writes()[written:] if "llmservices/status" not in w and "events" not in w]
    assert len([w for w in children_written if "services" in w and w.endswith("/chat-decode 201")]) == 1
    silent = [w for w in children_written if f"/{decode} " in w]
    assert len(silent) <= 1, "to learn how the API server spells the amounts"
    assert len(children_written) == 1 + len(silent)
    assert not api.events("Restored")


def test_a_restarted_api_server_is_survived(running: Operator, api: Api, plane: ControlPlane) -> None:
    api.create(service())
    before = ready(api)
    process = running.process
    plane.stop_apiserver()
    time.sleep(5)
    plane.start_apiserver()
    api("delete", "svc", "chat-decode")
    eventually(lambda: "Service/chat-decode" in api.children())
    after = api.children()
    assert {n: u for n, u in after.items() if n != "Service/chat-decode"} == {
        n: u for n, u in before.items() if n != "Service/chat-decode"
    }
    assert process is not None
    assert process.poll() is None, "the same process went on"
    api.patch("llmsvc", "chat", {"spec": {"router": {"replicas": 2}}})
    eventually(lambda: api.get("deploy", "chat-router")["spec"]["replicas"] == 2)


def test_a_service_is_deleted_while_no_operator_runs(running: Operator, api: Api) -> None:
    api.create(service())
    ready(api)
    running.stop()
    api("delete", "llmsvc", "chat", "--timeout=20s")
    eventually(lambda: not api.children())
    eventually(lambda: not api.items("pods"))
    running.start()
    time.sleep(5)
    assert not api.children()


def test_a_service_made_while_no_operator_runs_is_picked_up(operator: Operator, api: Api) -> None:
    operator.stop()
    api.create(service())
    time.sleep(1)
    operator.start()
    ready(api)


def test_a_deleted_service_stays_deleted(running: Operator, api: Api) -> None:
    """Children vanish one by one; none of them must be put back for a service that is gone."""
    api.create(service())
    ready(api)
    api("delete", "llmsvc", "chat")
    eventually(lambda: not api.children())
    time.sleep(6)
    assert not api.children()


def test_a_service_deleted_in_the_foreground_is_not_repaired(running: Operator, api: Api) -> None:
    api.create(service())
    ready(api)
    api("delete", "llmsvc", "chat", "--cascade=foreground", "--timeout=60s")
    eventually(lambda: not api.children())
    time.sleep(3)
    assert not api.children()
    assert not api.events("Restored")


def test_an_operator_killed_amid_growth_goes_on(running: Operator, api: Api, plane: ControlPlane) -> None:
    api.create(service(scaling={"gpuBudget": 12, "interval": "5s"}))
    before = ready(api)
    plane.nodes.behave({"llmservice.dev/pool": "decode"}, Behaviour(start_s=6.0))
    try:
        api.patch("llmsvc", "chat", {"spec": {"pools": {"decode": {"minReplicas": 4}}}})
        decode = engine(api, "decode")
        eventually(lambda: api.engines()[decode] == 4)
        running.stop(signal.SIGKILL)
        running.start()
        eventually(lambda: api.row("4/4"))
        assert api.engines()[decode] == 4
        assert api.children() == before
        changes = [(c["from"]["decode"], c["to"]["decode"]) for c in api.get("llmsvc", "chat")["status"]["history"]]
        assert changes == [(1, 4)]
        assert len([m for e in api.items("events") if "decode 1 -> 4" in (m := e["message"])]) == 1
    finally:
        plane.nodes.behave({"llmservice.dev/pool": "decode"}, Behaviour())


POD_MONITOR_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podmonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {
            "kind": "PodMonitor",
            "plural": "podmonitors",
            "singular": "podmonitor",
            "listKind": "PodMonitorList",
        },
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def test_pod_monitors_are_made_where_the_cluster_knows_them(operator: Operator, api: Api, plane: ControlPlane) -> None:
    """The kind alone is ours to test here; what a Prometheus Operator makes of it is not."""
    operator.stop()
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(POD_MONITOR_CRD))
    crd = "crd/podmonitors.monitoring.coreos.com"
    try:
        plane.kubectl("wait", "--for=condition=Established", crd)
        operator.start()
        api.create(service())
        ready(api)
        names = {i["metadata"]["name"] for i in api.items("podmonitors")}
        assert names == {"chat-engine", "chat-router"}
    finally:
        plane.kubectl("delete", crd)


def test_named_namespaces_need_rights_in_these_only(
    operator: Operator, api: Api, plane: ControlPlane, tmp_path: Path
) -> None:
    """Another account with roles in one namespace; the other namespace is none of its business."""
    operator.stop()
    plane.kubectl("create", "namespace", "unwatched")
    own = Operator(
        plane=plane,
        kubeconfig=grant_rights(plane, tmp_path, namespace=api.namespace),
        log=tmp_path / "operator.log",
        env={"LLMSERVICE_WATCH_NAMESPACES": api.namespace},
    )
    own.start()
    try:
        Api(plane, "unwatched").create(service())
        api.create(service())
        ready(api)
        api("delete", "svc", "chat")
        eventually(lambda: "Service/chat" in api.children())
        assert not Api(plane, "unwatched").children()
        assert "forbidden" not in own.log.read_text().lower()
    finally:
        own.stop()
        Api(plane, "unwatched")("delete", "llmsvc", "--all")


def test_an_operator_that_comes_before_its_definition_waits_for_it(
    operator: Operator, plane: ControlPlane, api: Api
) -> None:
    operator.stop()
    plane.kubectl("delete", "-f", str(CRD))
    operator.start()
    time.sleep(4)
    assert operator.process is not None
    assert operator.process.poll() is None
    install_crd(plane)
    api.create(service())
    ready(api)
