"""`helm install`, `upgrade` and `uninstall` against a real API server, as a user does them; pods are pretended.

What only a kubelet can show (the image starts, probes answer) is asked of the kind cluster in tests/chain.
"""

import re
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from e2e.cluster.bare import ControlPlane
from tests.chart.conftest import CHART, IMAGE, ROOT, Render, helm

pytestmark = pytest.mark.api
NAMESPACE = "llmservice"
SERVICE = yaml.safe_load((ROOT / "examples" / "minimal.yaml").read_text())["metadata"]["name"]
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:llmservice-operator"
ROUTER_ROLE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: chat-router, namespace: default}
rules:
- {apiGroups: [""], resources: [%s], verbs: [get, list, watch]}
- {apiGroups: [llmservice.dev], resources: [llmservices], resourceNames: [chat], verbs: [get, list, watch]}
"""


def release(plane: ControlPlane, *arguments: str) -> str:
    return helm(
        arguments[0], "llmservice", *arguments[1:], "--namespace", NAMESPACE, "--kubeconfig", str(plane.kubeconfig)
    )


def refused(plane: ControlPlane, *arguments: str, stdin: str | None = None) -> str:
    with pytest.raises(subprocess.CalledProcessError) as error:
        plane.kubectl(*arguments, stdin=stdin)
    return str(error.value.stderr)


@pytest.fixture(scope="module")
def notes(plane: ControlPlane) -> Iterator[str]:
    """The chart installed into a namespace where Pod Security is enforced; what Helm printed."""
    plane.kubectl("create", "namespace", NAMESPACE)
    plane.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    # Other tests left the definition to another release, as one that was uninstalled does.
    yield release(plane, "install", str(CHART), "--set", f"image.repository={IMAGE}", "--take-ownership")
    if NAMESPACE in helm("list", "--all-namespaces", "--kubeconfig", str(plane.kubeconfig)):
        release(plane, "uninstall")


def test_the_pod_passes_the_restricted_standard_and_becomes_ready(plane: ControlPlane, notes: str) -> None:
    plane.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/llmservice-operator", "--timeout=30s")


def test_the_operators_own_network_policy_is_taken(plane: ControlPlane, notes: str, render: Render) -> None:
    peer = "networkPolicies.prometheus[0].ipBlock.cidr=10.0.0.0/8"
    (policy,) = (m for m in render("networkPolicies.enabled=true", peer) if m["kind"] == "NetworkPolicy")
    plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(policy))
    policy["spec"]["ingress"][0]["from"] = [{"ipBlock": {"cidr": "everywhere"}}]
    assert "Invalid value" in refused(plane, "apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(policy))


def test_the_manifest_of_the_notes_can_be_pasted(plane: ControlPlane, notes: str) -> None:
    pasted = re.search(r"<<'EOF'\n(.*?)\n *EOF", notes, re.DOTALL)
    assert pasted is not None
    manifest = yaml.safe_load(pasted[1])
    plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(manifest))
    assert manifest["spec"]["engine"]["image"].startswith("REGISTRY/")


def test_the_operator_may_do_what_it_must_and_no_more(plane: ControlPlane, notes: str) -> None:
    def may(*words: str) -> bool:
        try:
            return plane.kubectl("auth", "can-i", *words, f"--as={ACCOUNT}").strip() == "yes"
        except subprocess.CalledProcessError as said_no:
            return str(said_no.stdout).strip() == "yes"

    assert may("patch", "llmservices.llmservice.dev", "--subresource=status", "-A")
    assert may("create", "deployments.apps", "-n", "default")
    assert not may("patch", "llmservices.llmservice.dev", "-A")
    assert not may("get", "secrets", "-A")
    assert not may("delete", "pods", "-A")
    assert not may("create", "pods", "--subresource=exec", "-A")


def test_the_operator_can_grant_the_routers_role_but_nothing_it_does_not_hold(plane: ControlPlane, notes: str) -> None:
    plane.kubectl("apply", f"--as={ACCOUNT}", "--server-side", "-f", "-", stdin=ROUTER_ROLE % "pods")
    words = refused(plane, "apply", f"--as={ACCOUNT}", "--server-side", "-f", "-", stdin=ROUTER_ROLE % "secrets")
    assert "is attempting to grant RBAC permissions not currently held" in words


def test_upgrade_and_uninstall_leave_services_and_the_definition(plane: ControlPlane, notes: str) -> None:
    plane.kubectl("apply", "-f", str(ROOT / "examples" / "minimal.yaml"))
    before = plane.kubectl("get", "llmsvc", SERVICE, "-o", "jsonpath={.metadata.uid} {.metadata.resourceVersion}")
    release(plane, "upgrade", str(CHART), "--set", f"image.repository={IMAGE}", "--set", "logLevel=debug")
    release(plane, "uninstall", "--wait")
    after = plane.kubectl("get", "llmsvc", SERVICE, "-o", "jsonpath={.metadata.uid} {.metadata.resourceVersion}")
    assert after == before
    assert "NotFound" in refused(plane, "-n", NAMESPACE, "get", "deployment", "llmservice-operator")
    release(plane, "install", str(CHART), "--set", f"image.repository={IMAGE}")
    assert plane.kubectl("get", "llmsvc", SERVICE, "-o", "jsonpath={.metadata.uid}") == before.split()[0]
