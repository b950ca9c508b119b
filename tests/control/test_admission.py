"""Pods before the API server's own Pod Security admission, in a namespace that enforces `restricted`.

The chart's own pod is asked in tests/chart/test_install.py.
"""

import json
import subprocess
from typing import Any

import pytest
import yaml

from e2e.cluster.bare import ControlPlane
from llmservice_operator import children
from llmservice_operator.kinds import Manifest
from tests.control.support import Api, Operator, eventually, ready, service
from tests.control.test_child_network import CLIENT, OPERATOR, PROMETHEUS
from tests.control.test_children import SETTINGS, SIZES, example
from tests.control.test_pod_security import FULL, REFUSED, decode

pytestmark = [pytest.mark.api, pytest.mark.timeout(600)]
LABEL = "pod-security.kubernetes.io/enforce=restricted"
EXAMPLES = ["chat", "mixed", "template", "api-keys"]


@pytest.fixture
def strict(api: Api, plane: ControlPlane) -> Api:
    """A namespace that takes restricted pods only."""
    plane.kubectl("label", "namespace", api.namespace, LABEL)
    return api


def pod_of(template: Manifest, name: str) -> Manifest:
    metadata = {"name": name, "annotations": template["metadata"].get("annotations", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def refusal(api: Api, pod: Manifest) -> str:
    """Empty for a pod that the API server lets in."""
    try:
        api("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    except subprocess.CalledProcessError as refused:
        return str(refused.stderr)
    return ""


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_pod_that_we_render_is_restricted(strict: Api, name: str) -> None:
    body = example(name)
    made = children.render(body, SETTINGS, children.look(body, SETTINGS), SIZES)
    templates = [m["spec"]["template"] for m in made if m["kind"] == "Deployment"]
    assert len(templates) == (2 if name == "mixed" else 3)
    for number, template in enumerate(templates):
        for elsewhere in ("serviceAccountName", "runtimeClassName"):  # not in this cluster
            template["spec"].pop(elsewhere, None)
        assert refusal(strict, pod_of(template, f"pod-{number}")) == ""


def test_what_the_namespace_refuses_under_full_the_operator_refuses_under_restricted(strict: Api) -> None:
    """Each refused template breaks the standard, or asks for an account: Restricted is no stricter than it says."""
    ours = ("serviceAccount", "automountServiceAccountToken")
    for template, place in REFUSED:
        template_of_pod = next(
            t for pool, t in children.look(decode(template), FULL).templates.items() if pool.value == "decode"
        )
        words = refusal(strict, pod_of(template_of_pod, "full"))
        assert words or any(part in place for part in ours), place


def test_a_restricted_namespace_is_served_in_full(running: Operator, strict: Api) -> None:
    """Deployments warn only; that their pods are made and become Ready shows that the admission let them in."""
    strict.create(service())
    ready(strict)
    assert len(strict.items("pods")) == 3


def test_a_refused_template_touches_nothing_that_runs_and_says_what_to_change(running: Operator, api: Api) -> None:
    body = service()
    api.create(body)
    before = ready(api)
    pods = {p["metadata"]["uid"] for p in api.items("pods")}
    template = {"spec": {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}}
    api.patch("llmsvc", "chat", {"spec": {"pools": {"decode": {"template": template}}}})
    told = eventually(lambda: api.told("chat", "Degraded", "True"))
    assert told["reason"] == "Misconfigured"
    assert "spec.pools.decode.template.spec.volumes[host].hostPath is not allowed" in told["message"]
    assert "operator.podTemplate: Full" in told["message"]
    assert api.children() == before
    assert {p["metadata"]["uid"] for p in api.items("pods")} == pods
    assert api.is_ready()
    api.patch("llmsvc", "chat", {"spec": {"pools": {"decode": {"template": None}}}})
    eventually(lambda: api.told("chat", "Degraded", "False"))


def test_network_policies_come_and_go_with_the_setting(operator: Operator, api: Api) -> None:
    """As the API server takes them; that a network obeys them is not shown here."""
    peers = {"clients": [CLIENT], "prometheus": [PROMETHEUS], "operator": [OPERATOR]}
    before = dict(operator.env)
    operator.stop()
    operator.env |= {"LLMSERVICE_NETWORK_POLICIES": json.dumps(peers)}
    try:
        operator.start()
        api.create(service())
        ready(api)
        made = eventually(lambda: api.items("networkpolicies"))
        assert {m["metadata"]["name"] for m in made} == {"chat-router", "chat-engine"}
        api.patch("networkpolicy", "chat-engine", {"spec": {"ingress": [{}]}})
        eventually(lambda: len(api.get("networkpolicy", "chat-engine")["spec"]["ingress"]) == 4)
        operator.stop()
        operator.env.clear()
        operator.env.update(before)
        operator.start()
        eventually(lambda: not api.items("networkpolicies"))
    finally:
        operator.stop()
        operator.env.clear()
        operator.env.update(before)


def test_a_pod_with_host_path_is_refused_by_the_namespace(strict: Api) -> None:
    pod: dict[str, Any] = yaml.safe_load("""
        apiVersion: v1
        kind: Pod
        metadata: {name: host}
        spec:
          containers: [{name: c, image: i}]
          volumes: [{name: host, hostPath: {path: /}}]
    """)
    assert "restricted volume types" in refusal(strict, pod)
