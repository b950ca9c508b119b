"""Pod templates under `operator.podTemplate`: what Restricted refuses and fills in, and what Full lets through."""

import copy
import re
from dataclasses import replace
from typing import Any

import pytest

from llmservice_api.resource import LLMService
from llmservice_core.model import Pool
from llmservice_operator import children
from llmservice_operator.errors import Misconfigured
from llmservice_operator.pod_security import PodTemplate
from llmservice_operator.settings import read
from tests.control.bad_manifests import GOOD
from tests.control.test_children import SETTINGS, SIZES, good

FULL = replace(SETTINGS, pod_template=PodTemplate.FULL)
CONTEXT = "securityContext"


def pod(**spec: Any) -> dict[str, Any]:
    return {"spec": spec}


def engine(**said: Any) -> dict[str, Any]:
    return pod(containers=[{"name": "engine", **said}])


def sidecar(field: str = "containers", **said: Any) -> dict[str, Any]:
    return pod(**{field: [{"name": "extra", "image": "extra:1", **said}]})


def volume(**kind: Any) -> dict[str, Any]:
    return pod(volumes=[{"name": "data", **kind}])


REFUSED = [
    (pod(hostNetwork=True), "spec.hostNetwork"),
    (pod(hostPID=True), "spec.hostPID"),
    (pod(hostIPC=True), "spec.hostIPC"),
    (pod(serviceAccountName="admin"), "spec.serviceAccountName"),
    (pod(serviceAccount="admin"), "spec.serviceAccount"),
    (pod(automountServiceAccountToken=True), "spec.automountServiceAccountToken"),
    (pod(securityContext={"runAsUser": 0}), "spec.securityContext.runAsUser"),
    (pod(securityContext={"runAsNonRoot": False}), "spec.securityContext.runAsNonRoot"),
    (pod(securityContext={"seccompProfile": {"type": "Unconfined"}}), "spec.securityContext.seccompProfile"),
    (pod(securityContext={"appArmorProfile": {"type": "Unconfined"}}), "spec.securityContext.appArmorProfile"),
    (pod(securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}), "spec.securityContext.sysctls"),
    (pod(securityContext={"seLinuxOptions": {"type": "spc_t"}}), "spec.securityContext.seLinuxOptions"),
    (pod(securityContext={"windowsOptions": {"hostProcess": True}}), "spec.securityContext.windowsOptions"),
    (volume(hostPath={"path": "/"}), "spec.volumes[data].hostPath"),
    (volume(nfs={"server": "n", "path": "/"}), "spec.volumes[data].nfs"),
    (volume(emptyDir={}, hostPath={}), "spec.volumes[data].hostPath"),
    (engine(securityContext={"privileged": True}), f"spec.containers[engine].{CONTEXT}.privileged"),
    (
        engine(securityContext={"allowPrivilegeEscalation": True}),
        f"spec.containers[engine].{CONTEXT}.allowPrivilegeEscalation",
    ),
    (
        engine(securityContext={"capabilities": {"add": ["IPC_LOCK"]}}),
        f"spec.containers[engine].{CONTEXT}.capabilities.add",
    ),
    (engine(securityContext={"capabilities": {"add": "ALL"}}), f"spec.containers[engine].{CONTEXT}.capabilities.add"),
    (engine(securityContext={"runAsUser": 0}), f"spec.containers[engine].{CONTEXT}.runAsUser"),
    (engine(securityContext={"procMount": "Unmasked"}), f"spec.containers[engine].{CONTEXT}.procMount"),
    (sidecar("initContainers", securityContext={"privileged": True}), "spec.initContainers[extra]"),
    (
        sidecar(ports=[{"containerPort": 1}, {"containerPort": 2, "hostPort": 2}]),
        "spec.containers[extra].ports.hostPort",
    ),
    (sidecar(livenessProbe={"httpGet": {"host": "a", "port": 1}}), "spec.containers[extra].livenessProbe.httpGet.host"),
    (
        sidecar(lifecycle={"preStop": {"tcpSocket": {"host": "a"}}}),
        "spec.containers[extra].lifecycle.preStop.tcpSocket.host",
    ),
    (
        {"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/engine": "unconfined"}}},
        "metadata.annotations[container.apparmor.security.beta.kubernetes.io/engine]",
    ),
]


def decode(template: dict[str, Any]) -> LLMService:
    pools = copy.deepcopy(GOOD["spec"]["pools"])
    pools["decode"]["template"] = template
    return good(pools=pools)


def looked(template: dict[str, Any]) -> Any:
    return children.look(decode(template), SETTINGS).templates[Pool.DECODE]["spec"]


@pytest.mark.parametrize(("template", "place"), REFUSED, ids=[place for _, place in REFUSED])
def test_restricted_refuses_it_in_pools_and_routers_and_says_whom_to_ask(template: dict[str, Any], place: str) -> None:
    with pytest.raises(Misconfigured, match=re.escape(place)) as refused:
        children.look(decode(template), SETTINGS)
    assert str(refused.value).startswith("spec.pools.decode.template.")
    assert "ask whoever installed the operator to set operator.podTemplate: Full" in str(refused.value)
    service = good(router={"template": template})
    with pytest.raises(Misconfigured, match=re.escape(f"spec.router.template.{place}")):
        children.render(service, SETTINGS, children.look(service, SETTINGS), SIZES)


@pytest.mark.parametrize("template", [t for t, _ in REFUSED], ids=[place for _, place in REFUSED])
def test_full_lets_it_through(template: dict[str, Any]) -> None:
    look = children.look(decode(template), FULL)
    assert look.revision != children.look(good(), FULL).revision


def test_what_is_left_unsaid_is_filled_in() -> None:
    said = {
        "securityContext": {"fsGroup": 7},
        "containers": [
            {"name": "engine", "securityContext": {"readOnlyRootFilesystem": False}},
            {"name": "extra", "image": "e:1", "securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"]}}},
        ],
        "initContainers": [{"name": "fetch", "image": "f:1"}],
    }
    made = looked({"spec": said})
    assert made["securityContext"] == {
        "fsGroup": 7,
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    contexts = [c["securityContext"] for c in (*made["containers"], *made["initContainers"])]
    assert all(context["allowPrivilegeEscalation"] is False for context in contexts)
    assert all(context["capabilities"]["drop"] == ["ALL"] for context in contexts)
    assert contexts[0]["readOnlyRootFilesystem"] is False
    assert contexts[1]["capabilities"]["add"] == ["NET_BIND_SERVICE"]


def test_denials_ask_for_nothing() -> None:
    quiet = {"hostNetwork": False, "hostPID": None, "automountServiceAccountToken": False}
    template = {
        "spec": {**quiet, "containers": [{"name": "engine", "securityContext": {"privileged": False, "runAsUser": 7}}]}
    }
    assert looked(template)["containers"][0]["securityContext"]["runAsUser"] == 7


def test_the_setting_is_read_and_a_misspelt_one_ends_the_operator() -> None:
    assert read({}).pod_template is PodTemplate.RESTRICTED
    assert read({"LLMSERVICE_POD_TEMPLATE": "Full"}).pod_template is PodTemplate.FULL
    with pytest.raises(ValueError, match="full"):
        read({"LLMSERVICE_POD_TEMPLATE": "full"})
