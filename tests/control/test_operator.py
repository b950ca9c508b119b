"""What the operator makes and puts back, run with the chart's rights before a real API server and fake nodes."""

import re
import subprocess
import time
from typing import Any

import pytest

from e2e.cluster.bare import ControlPlane
from e2e.cluster.fake_nodes import Behaviour
from tests.control.support import Api, Operator, engine, eventually, ready, service

pytestmark = [pytest.mark.api, pytest.mark.timeout(900)]


CHILDREN = {
    "Service/chat",
    "Service/chat-router",
    "Service/chat-prefill",
    "Service/chat-decode",
    "ServiceAccount/chat-router",
    "Role/chat-router",
    "RoleBinding/chat-router",
    "PodDisruptionBudget/chat-router",
    "PodDisruptionBudget/chat-prefill",
    "PodDisruptionBudget/chat-decode",
    "Deployment/chat-router",
}


def test_everything_is_made_and_told(running: Operator, api: Api) -> None:
    api.create(service())
    children = ready(api)
    assert {name for name in children if "decode-" not in name and "prefill-" not in name} == CHILDREN
    assert sorted(api.engines().values()) == [1, 1]
    row = eventually(lambda: api.row("True", "1/1"))
    assert row[:5] == ["chat", "True", "1/1", "1/1", "2/12"]
    assert "finalizers" not in api.get("llmsvc", "chat")["metadata"]
    assert api.condition("chat", "MetricsAvailable")["reason"] == "MetricsMissing"
    assert "set spec.metrics.prometheusURL" in api.condition("chat", "MetricsAvailable")["message"]


def test_a_mixed_service_shows_itself(running: Operator, api: Api) -> None:
    api.create(service(disaggregation="Never", pools={"mixed": {"minReplicas": 2, "maxReplicas": 4}}))
    ready(api)
    row = eventually(lambda: api.row("2/2", "mixed"))
    assert row[4:6] == ["-", "2/12"]
    assert list(api.engines().values()) == [2]


def test_edited_children_are_put_back(running: Operator, api: Api) -> None:
    api.create(service())
    ready(api)
    decode = engine(api, "decode")
    api("scale", "deploy", decode, "--replicas=5")
    api("set", "image", f"deploy/{decode}", "engine=stranger:1")
    api.patch("svc", "chat", {"spec": {"selector": {"llmservice.dev/component": "nothing"}}})
    api.patch("role", "chat-router", {"rules": []})
    api.patch("pdb", "chat-decode", {"spec": {"maxUnavailable": 3}})
    api("label", "svc", "chat-router", "llmservice.dev/name-")
    eventually(lambda: api.engines()[decode] == 1)
    eventually(lambda: api.get("deploy", decode)["spec"]["template"]["spec"]["containers"][0]["image"] != "stranger:1")
    eventually(lambda: api.get("svc", "chat")["spec"]["selector"]["llmservice.dev/component"] == "router")
    eventually(lambda: api.get("role", "chat-router").get("rules"))
    eventually(lambda: api.get("pdb", "chat-decode")["spec"]["maxUnavailable"] == 1)
    eventually(lambda: api.get("svc", "chat-router")["metadata"]["labels"].get("llmservice.dev/name") == "chat")
    told = eventually(lambda: m if len(m := api.events("Restored")) >= 5 else None)
    assert f"Deployment {decode} was edited by somebody else and is put back" in told


def test_what_strangers_add_to_a_selector_or_a_right_goes(running: Operator, api: Api) -> None:
    """Each of these made a service silently useless: no endpoints, no budget, a stranger with the router's rights."""
    body = service()
    body["spec"]["pools"]["decode"]["template"] = {"spec": {"nodeSelector": {"kubernetes.io/os": "linux"}}}
    api.create(body)
    ready(api)
    decode = engine(api, "decode")
    paths = {
        ("svc", "chat"): "spec.selector",
        ("pdb", "chat-decode"): "spec.selector.matchLabels",
        ("rolebinding", "chat-router"): "subjects",
        ("role", "chat-router"): "rules",
        ("deploy", decode): "spec.template.spec.nodeSelector",
    }
    wanted = {key: at(api.get(*key), path) for key, path in paths.items()}
    subject = {"kind": "ServiceAccount", "name": "stranger", "namespace": "default"}
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
    api.patch("svc", "chat", {"spec": {"selector": {"team": "x"}}})
    api.patch("pdb", "chat-decode", {"spec": {"selector": {"matchLabels": {"team": "x"}}}})
    api.patch("rolebinding", "chat-router", {"subjects": [*wanted["rolebinding", "chat-router"], subject]})
    api.patch("role", "chat-router", {"rules": [*wanted["role", "chat-router"], rule]})
    api.patch("deploy", decode, {"spec": {"template": {"spec": {"nodeSelector": {"team": "x"}}}}})
    for key, path in paths.items():
        eventually(lambda key=key, path=path: at(api.get(*key), path) == wanted[key])  # type: ignore[misc]
    before = len(running.writes())
    time.sleep(6)
    assert [w for w in running.writes()[before:] if "llmservices/status" not in w and "events" not in w] == []


def at(node: Any, path: str) -> Any:
    for part in path.split("."):
        node = node[part]
    return node


def test_deleted_children_come_back(running: Operator, api: Api) -> None:
    api.create(service())
    before = ready(api)
    api("delete", "deploy,svc,role,rolebinding,sa,pdb", "-l", "llmservice.dev/name")
    after = eventually(lambda: c if (c := api.children()).keys() == before.keys() else None)
    assert not set(before.values()) & set(after.values()), "all were deleted, all are new"
    told = eventually(lambda: m if len(m := api.events("Restored")) >= len(before) else None)
    assert "Service chat was deleted by somebody else and is put back" in told
    ready(api)


def test_what_others_add_is_left_alone(running: Operator, api: Api) -> None:
    api.create(service())
    ready(api)
    api("annotate", "svc", "chat", "team=search")
    api("label", "deploy", engine(api, "decode"), "team=search")
    before = len(running.writes())
    time.sleep(6)
    assert running.writes()[before:] == []
    assert api.get("svc", "chat")["metadata"]["annotations"]["team"] == "search"


def test_services_in_namespaces_do_not_disturb_each_other(running: Operator, api: Api, plane: ControlPlane) -> None:
    """Same name in two namespaces; beside them one with a Prometheus that never answers and one without a way out."""
    plane.kubectl("create", "namespace", "other")
    other = Api(plane, "other")
    try:
        api.create(service("lost", metrics={"prometheusURL": "http://192.0.2.1:9090"}))
        api.create(service("broken", pools={"prefill": {"maxReplicas": 1}, "decode": _impossible()}))
        api.create(service())
        other.create(service())
        ready(api), ready(other)
        other("delete", "svc", "chat")
        eventually(lambda: "Service/chat" in other.children(), 15)
        condition = eventually(lambda: api.told("broken", "Degraded", "True"))
        assert condition["reason"] == "Misconfigured"
        assert "field not declared in schema" in condition["message"]
        lost = eventually(lambda: api.told("lost", "MetricsAvailable", "False"))
        assert "Prometheus at http://192.0.2.1:9090" in lost["message"]
    finally:
        other("delete", "llmsvc", "--all")


def _impossible() -> dict[str, Any]:
    return {"maxReplicas": 1, "template": {"spec": {"noSuchField": True}}}


def test_a_stranger_of_the_same_name_is_not_taken_over(running: Operator, api: Api) -> None:
    api("create", "service", "clusterip", "chat", "--tcp=80:80")
    api.create(service())
    condition = eventually(lambda: api.told("chat", "Degraded", "True"))
    assert "Service chat exists and belongs to somebody else" in condition["message"]
    eventually(lambda: api.is_ready() and len(api.engines()) == 2, 30)
    api.patch("llmsvc", "chat", {"spec": {"pools": {"decode": {"minReplicas": 2}}}})
    eventually(lambda: sorted(api.engines().values()) == [1, 2], 30)
    assert api.condition("chat", "Degraded")["status"] == "True", "everything else works, and that one is still told"
    assert api.get("svc", "chat")["spec"]["selector"] == {"app": "chat"}
    api("delete", "svc", "chat")
    ready(api)
    eventually(lambda: api.condition("chat", "Degraded")["status"] == "False")


@pytest.mark.parametrize("mode", ["Off", "Recommend"])
def test_people_set_the_sizes(running: Operator, api: Api, mode: str) -> None:
    api.create(service(scaling={"mode": mode, "interval": "5s"}))
    ready(api)
    decode = engine(api, "decode")
    api("scale", "deploy", decode, "--replicas=3")
    time.sleep(8)
    assert api.engines()[decode] == 3
    eventually(lambda: api.get("llmsvc", "chat")["status"]["pools"]["decode"]["desired"] == 3)
    assert ("plan" in api.get("llmsvc", "chat")["status"]) == (mode == "Recommend")
    api.patch("llmsvc", "chat", {"spec": {"scaling": {"mode": "Auto"}}})
    time.sleep(3)
    assert api.engines()[decode] == 3, "Auto goes on from the size it finds"


def test_a_raised_minimum_is_a_change_with_one_event_and_one_log_line(running: Operator, api: Api) -> None:
    api.create(service())
    ready(api)
    api.patch("llmsvc", "chat", {"spec": {"pools": {"decode": {"minReplicas": 3}}}})
    decode = engine(api, "decode")
    eventually(lambda: api.engines()[decode] == 3)
    history = eventually(lambda: api.get("llmsvc", "chat")["status"].get("history"))
    assert (history[-1]["from"]["decode"], history[-1]["to"]["decode"]) == (1, 3)
    assert len([e for e in api.items("events") if "decode 1 -> 3" in e["message"]]) == 1
    assert len(re.findall(rf"{api.namespace}/chat: \w+: decode 1 -> 3", running.log.read_text())) == 1


def test_a_new_revision_replaces_the_old_one_when_it_is_ready(running: Operator, api: Api, plane: ControlPlane) -> None:
    api.create(service())
    ready(api)
    old = set(api.engines())
    plane.nodes.behave({"llmservice.dev/pool": "decode"}, Behaviour(start_s=4.0))
    try:
        api.patch("llmsvc", "chat", {"spec": {"model": {"maxModelLen": 2048}}})
        eventually(lambda: len(api.engines()) == 4)
        time.sleep(1)
        assert old < set(api.engines()), "prefill waits for decode: pods of two revisions never pair"
        new = eventually(lambda: e if len(e := set(api.engines())) == 2 else None)
        assert not old & new
        ready(api)
    finally:
        plane.nodes.behave({"llmservice.dev/pool": "decode"}, Behaviour())


def test_the_old_spec_brings_back_the_old_pods(running: Operator, api: Api, plane: ControlPlane) -> None:
    """A revision that never becomes Ready is left by setting the spec back; the pods that served all along stay."""
    api.create(service())
    before = ready(api)
    plane.nodes.behave({"llmservice.dev/pool": "decode"}, Behaviour(start_s=None))
    try:
        api.patch("llmsvc", "chat", {"spec": {"model": {"maxModelLen": 2048}}})
        eventually(lambda: len(api.engines()) == 4)
        assert api.is_ready()
        api.patch("llmsvc", "chat", {"spec": {"model": {"maxModelLen": None}}})
        eventually(lambda: api.children() == before)
    finally:
        plane.nodes.behave({"llmservice.dev/pool": "decode"}, Behaviour())


def bound(api: Api) -> list[str]:
    """Engine pods that have a node."""
    pods = api.items("pods", "-l", "llmservice.dev/component=engine")
    return [pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName")]


def test_a_broken_revision_makes_room_for_its_correction(running: Operator, api: Api, plane: ControlPlane) -> None:
    """Two revisions fill the two nodes: while the broken one held its GPUs, the corrected one could never start."""
    pools = {"prefill": {"maxReplicas": 1}, "decode": {"maxReplicas": 1, "gpusPerReplica": 6}}
    api.create(service(pools=pools, scaling={"interval": "5s"}))
    ready(api)
    serving = set(api.engines())
    plane.nodes.behave({"llmservice.dev/pool": "decode"}, Behaviour(start_s=None))
    try:
        api.patch("llmsvc", "chat", {"spec": {"engine": {"image": "localhost/broken:1"}}})
        broken = eventually(lambda: e - serving if len(e := set(api.engines())) == 4 else None)
        eventually(lambda: len(bound(api)) == 4)
        plane.nodes.behave({"llmservice.dev/pool": "decode"}, Behaviour(start_s=2.0))
        api.patch("llmsvc", "chat", {"spec": {"engine": {"image": "localhost/corrected:1"}}})
        eventually(lambda: not broken & set(api.engines()))
        assert serving < set(api.engines()), "what serves stays until the correction does"
        eventually(lambda: not serving & set(api.engines()))
        ready(api)
    finally:
        plane.nodes.behave({"llmservice.dev/pool": "decode"}, Behaviour())


def test_pods_without_a_node_are_told_of(running: Operator, api: Api) -> None:
    pools = {"prefill": {"maxReplicas": 1}, "decode": {"minReplicas": 3, "maxReplicas": 3, "gpusPerReplica": 8}}
    api.create(service(pools=pools, scaling={}))
    condition = eventually(lambda: api.told("chat", "Degraded", "True"))
    assert condition["reason"] == "Unschedulable"
    assert "decode pod chat-decode-" in condition["message"]
    assert "finds no node: 0/2 nodes are available" in condition["message"]
    assert "Insufficient nvidia.com/gpu" in condition["message"], "in the scheduler's own words"


def test_api_keys_come_and_go_with_the_spec_and_nobody_tells_of_them(running: Operator, api: Api) -> None:
    """Fake nodes mount nothing: that a real kubelet does is for the kind cluster to show."""
    key = "sk-acme-0123456789abcdef0123456789abcdef"
    api("create", "secret", "generic", "chat-keys", f"--from-literal=acme=keys: [{key}]")
    api.create(service())
    ready(api)
    assert "open: whoever reaches" in api.condition("chat", "Ready")["message"]

    def volumes() -> list[str]:
        return [v["name"] for v in api.get("deploy", "chat-router")["spec"]["template"]["spec"]["volumes"]]

    api.patch("llmsvc", "chat", {"spec": {"router": {"access": {"apiKeysSecret": "chat-keys"}}}})
    eventually(lambda: "api-keys" in volumes())
    eventually(lambda: "open" not in api.condition("chat", "Ready")["message"])
    written = [w for w in running.writes() if "deployments" in w and f"{api.namespace}/chat-router" in w]
    assert written
    time.sleep(6)
    again = [w for w in running.writes() if "deployments" in w and f"{api.namespace}/chat-router" in w]
    assert again == written, "the API server's spelling of it is nobody's edit"
    with pytest.raises(subprocess.CalledProcessError):
        api("auth", "can-i", "get", "secrets", f"--as=system:serviceaccount:{api.namespace}:chat-router")
    api.patch("llmsvc", "chat", {"spec": {"router": {"access": None}}})
    eventually(lambda: "api-keys" not in volumes())
    told = [running.log.read_text(), api("get", "llmsvc,deploy,pods,events", "-o", "json")]
    assert not [text for text in told if key in text]
