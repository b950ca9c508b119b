"""What Helm renders: the operator's pod, its rights against the operator room's own list, the definition."""

import re
import subprocess
from collections.abc import Iterable
from typing import Any

import pytest
import yaml

from llmservice_core import contract
from llmservice_operator.pod_security import PodTemplate
from llmservice_operator.settings import read
from tests.chart.conftest import CHART, IMAGE, ROOT, Manifest, Render, helm, the

pytestmark = pytest.mark.api
Right = tuple[str, str, str]
CLUSTER_ONLY = "customresourcedefinitions"


def rights(rules: Iterable[dict[str, Any]]) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def needed() -> set[Right]:
    """The table of rbac.md, which the operator's authors keep."""
    found = set()
    for line in (ROOT / "operator/llmservice_operator/rbac.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r'""|[a-z0-9.]+\.[a-z0-9.]+|apps|policy', cells[0]):
            group = cells[0].strip('"')
            found |= {(group, r, v) for r in cells[1].split(", ") for v in cells[2].split(", ")}
    return found


def operator_pod(manifests: list[Manifest]) -> dict[str, Any]:
    spec: dict[str, Any] = the(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def environment(manifests: list[Manifest]) -> dict[str, str]:
    return {e["name"]: e["value"] for e in operator_pod(manifests)["containers"][0]["env"]}


def test_lint_has_nothing_to_say() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), "--set", f"image.repository={IMAGE}")


def test_without_an_image_it_says_what_to_do(render: Render) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render("image.repository=")
    assert "make images" in refused.value.stderr


def test_helm_itself_refuses_a_misspelt_value(render: Render) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render("watchNamespace={a}")
    assert "watchNamespace" in refused.value.stderr


def test_cluster_wide_rights_are_exactly_those_that_the_operator_lists(render: Render) -> None:
    role = the(render(), "ClusterRole", "llmservice-operator")
    assert len(needed()) > 30
    assert rights(role["rules"]) == needed()


def test_named_namespaces_need_no_right_over_the_cluster(render: Render) -> None:
    manifests = render("watchNamespaces={team-a,team-b}", "rbac.aggregate=false")
    roles = {m["metadata"]["namespace"]: rights(m["rules"]) for m in manifests if m["kind"] == "Role"}
    expected = {right for right in needed() if right[1] != CLUSTER_ONLY}
    assert roles == {"team-a": expected, "team-b": expected}
    assert not [m for m in manifests if m["kind"].startswith("ClusterRole")]
    bound = [m["subjects"][0]["namespace"] for m in manifests if m["kind"] == "RoleBinding"]
    assert bound == ["llmservice", "llmservice"]
    assert environment(manifests)["LLMSERVICE_WATCH_NAMESPACES"] == "team-a,team-b"


def test_no_secret_no_star_no_escalation(render: Render) -> None:
    everything = {
        part for right in rights(the(render(), "ClusterRole", "llmservice-operator")["rules"]) for part in right
    }
    assert not everything & {"*", "secrets", "escalate", "bind", "impersonate", "pods/exec"}


def test_every_block_of_rights_has_its_reason() -> None:
    lines = (CHART / "templates" / "_rules.tpl").read_text().splitlines()
    blocks = [number for number, line in enumerate(lines) if line.startswith("- apiGroups")]
    assert len(blocks) > 5
    assert all(lines[number - 1].startswith("# ") for number in blocks)


def test_one_operator_at_a_time(render: Render) -> None:
    spec = the(render(), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_pod_is_as_locked_as_it_can_be(render: Render) -> None:
    pod = operator_pod(render())
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]


def test_probes_ask_the_port_that_the_operator_opens(render: Render) -> None:
    (container,) = operator_pod(render())["containers"]
    assert container["ports"] == [{"name": "metrics", "containerPort": contract.PORT_OPERATOR}]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert probes == [{"path": "/healthz", "port": "metrics"}] * 3
    assert the(render(), "Service")["spec"]["ports"][0]["port"] == contract.PORT_OPERATOR


def test_the_service_selects_the_pod(render: Render) -> None:
    manifests = render()
    labels = the(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert the(manifests, "Service")["spec"]["selector"].items() <= labels.items()


def test_the_definition_is_kept_and_otherwise_unchanged(render: Render) -> None:
    rendered = the(render(), "CustomResourceDefinition")
    printed = yaml.safe_load((ROOT / "crds" / "llmservices.llmservice.dev.yaml").read_text())
    assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert rendered["spec"] == printed["spec"]
    assert rendered["metadata"]["name"] == printed["metadata"]["name"]
    assert not [m for m in render("crds.create=false") if m["kind"] == "CustomResourceDefinition"]


def test_pod_monitor_only_when_asked(render: Render) -> None:
    assert not [m for m in render() if m["kind"] == "PodMonitor"]
    monitor = the(render("metrics.podMonitor.enabled=true", "metrics.podMonitor.labels.team=a"), "PodMonitor")
    assert monitor["metadata"]["labels"]["team"] == "a"


def test_two_releases_do_not_share_names(render: Render) -> None:
    one, other = ({m["metadata"]["name"] for m in render("crds.create=false", release=r)} for r in ("llmservice", "b"))
    assert not one & other


def test_values_reach_the_operator(render: Render) -> None:
    manifests = render(
        "image.tag=1.2.3", "defaults.engineImage=e:1", "defaults.prometheusURL=http://p:9090", "logLevel=debug"
    )
    assert operator_pod(manifests)["containers"][0]["image"] == f"{IMAGE}:1.2.3"
    assert environment(manifests) | {"LLMSERVICE_WATCH_NAMESPACES": ""} == {
        "LLMSERVICE_ROUTER_IMAGE": f"{IMAGE}:1.2.3",
        "LLMSERVICE_ENGINE_IMAGE": "e:1",
        "LLMSERVICE_PROMETHEUS_URL": "http://p:9090",
        "LLMSERVICE_LOG_LEVEL": "debug",
        "LLMSERVICE_WATCH_NAMESPACES": "",
        "LLMSERVICE_POD_TEMPLATE": "Restricted",
    }


def test_a_digest_decides_over_the_tag_for_operator_and_routers(render: Render) -> None:
    digest = "sha256:" + "a" * 64
    manifests = render("image.tag=1.2.3", f"image.digest={digest}")
    assert operator_pod(manifests)["containers"][0]["image"] == f"{IMAGE}@{digest}"
    assert environment(manifests)["LLMSERVICE_ROUTER_IMAGE"] == f"{IMAGE}@{digest}"


def test_the_operator_is_told_what_templates_may_ask_for(render: Render) -> None:
    made = read(environment(render("operator.podTemplate=Full")))
    assert (made.pod_template, read(environment(render())).pod_template) == (PodTemplate.FULL, PodTemplate.RESTRICTED)


def test_a_namespaced_operator_has_nothing_cluster_wide(render: Render) -> None:
    manifests = render("namespaced=true", "crds.create=false")
    assert not [m for m in manifests if m["kind"].startswith("ClusterRole")]
    assert the(manifests, "Role")["metadata"]["namespace"] == "llmservice"
    assert environment(manifests)["LLMSERVICE_WATCH_NAMESPACES"] == "llmservice"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render("namespaced=true", "watchNamespaces={a}")
    assert "either namespaced or watchNamespaces" in refused.value.stderr


def test_network_policies_only_when_asked(render: Render) -> None:
    assert not [m for m in render() if m["kind"] == "NetworkPolicy"]
    assert read(environment(render())).network is None
    peer = "networkPolicies.prometheus[0].namespaceSelector.matchLabels.team=metrics"
    manifests = render("networkPolicies.enabled=true", peer)
    selector = {"namespaceSelector": {"matchLabels": {"team": "metrics"}}}
    (rule,) = the(manifests, "NetworkPolicy")["spec"]["ingress"]
    assert rule["from"] == [selector]
    peers = read(environment(manifests)).network
    assert peers is not None
    assert (peers.clients, peers.prometheus) == ((), (selector,))
    (operator,) = peers.operator
    labels = the(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert operator["podSelector"]["matchLabels"].items() <= labels.items()
    assert operator["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "llmservice"}
