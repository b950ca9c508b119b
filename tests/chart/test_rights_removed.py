"""Every right of the chart's roles is needed: the operator without it, as its own ServiceAccount, fails at something.

Each right has an operator of its own in a namespace of its own with a Role that lacks just that right, so that several
are tried side by side. The operator with all of them goes the same way and is never refused.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.bare import ControlPlane, control_plane
from e2e.cluster.fake_nodes import Node
from llmservice_core import contract
from tests.chart.conftest import ROOT, Render, the
from tests.chart.test_operator_rights import kubeconfig_of
from tests.chart.test_render import CLUSTER_ONLY, Right, rights

pytestmark = [pytest.mark.api, pytest.mark.timeout(1800)]
AT_ONCE = 4
STEP_S = 60.0
"""For one step of the way; an operator that may do it takes about a second."""
LAST_S = 5.0
"""After the last step, for a refusal that comes late."""
SILENT = {
    ("monitoring.coreos.com", "podmonitors", "list"),
    ("monitoring.coreos.com", "podmonitors", "watch"),
    ("llmservice.dev", "llmservices", "list"),
    ("llmservice.dev", "llmservices", "watch"),
}
"""Without these the operator takes PodMonitors for unknown to the cluster, or kopf hears of no service: what is missing
is what it would have made. Without any other it says that it was refused."""
ACCOUNT = "llmservice-operator"
WORDS = ("forbidden", "not currently held", "Not enough permissions")
POD_MONITOR = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: podmonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: PodMonitor, listKind: PodMonitorList, plural: podmonitors, singular: podmonitor}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
KINDS = "podmonitors,networkpolicies,deployments,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets"
STRAY = "small-stray"
SCALING = {"interval": "5s", "scaleDown": {"stabilization": "0s", "drainDeadline": "0s"}}
PEERS = json.dumps({"operator": [{"podSelector": {}}]})
SMALL: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "minimal.yaml").read_text())


@pytest.fixture(scope="module")
def own_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("rights"), nodes=[Node(name="gpu-1", gpus=400)]) as plane:
        crds = ROOT / "crds" / "llmservices.llmservice.dev.yaml"
        plane.kubectl("apply", "--server-side", "-f", str(crds))
        plane.kubectl("apply", "-f", "-", stdin=POD_MONITOR)
        for name in ("llmservices.llmservice.dev", "podmonitors.monitoring.coreos.com"):
            plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{name}")
        yield plane


@dataclass
class Place:
    """One namespace with an operator that may do `allowed` there."""

    plane: ControlPlane
    name: str
    allowed: set[Right]
    folder: Path
    log: Path = field(init=False)
    _done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.log = self.folder / "operator.log"

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.plane.kubectl("-n", self.name, *arguments, stdin=stdin)

    def items(self, what: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", what, "-o", "json"))["items"]
        return found

    def names(self, what: str) -> set[str]:
        return {item["metadata"]["name"] for item in self.items(what)}

    def done(self, what: str) -> bool:
        """Whether this was asked before; it is done at most once."""
        asked = what in self._done
        self._done.add(what)
        return asked

    def has_children(self) -> bool:
        """Of every kind, and not on their way out."""
        items = json.loads(self.kubectl("get", KINDS, "-l", contract.LABEL_NAME, "-o", "json"))["items"]
        there = {i["kind"] for i in items if not i["metadata"].get("deletionTimestamp")}
        return len(there) == len(KINDS.split(","))

    def is_ready(self) -> bool:
        (small,) = self.items("llmsvc")
        conditions = small.get("status", {}).get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def stray_policy(self) -> dict[str, Any]:
        (small,) = self.items("llmsvc")
        owner = {"apiVersion": small["apiVersion"], "kind": small["kind"], "name": "small", "controller": True}
        metadata = {"name": STRAY, "labels": {contract.LABEL_NAME: "small"}}
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata | {"ownerReferences": [owner | {"uid": small["metadata"]["uid"]}]},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
        }

    def grant(self, *, cluster_wide: bool = False) -> None:
        rules = [{"apiGroups": [g], "resources": [r], "verbs": [v]} for g, r, v in sorted(self.allowed)]
        rbac, prefix = "rbac.authorization.k8s.io", "Cluster" if cluster_wide else ""
        meta = {"name": ACCOUNT, "namespace": self.name}
        about = {"name": self.name} if cluster_wide else meta
        role, binding = (
            {"apiVersion": f"{rbac}/v1", "kind": f"{prefix}{kind}", "metadata": about}
            for kind in ("Role", "RoleBinding")
        )
        subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": self.name}
        made = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
            role | {"rules": rules},
            binding
            | {"roleRef": {"apiGroup": rbac, "kind": role["kind"], "name": about["name"]}, "subjects": [subject]},
        ]
        self.plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(made))

    def refusals(self) -> list[str]:
        """What the operator was refused, as its log and the statuses have it."""
        told = [json.dumps(s.get("status", {}).get("conditions", [])) for s in self.items("llmsvc")]
        lines = [*self.log.read_text().splitlines(), *told]
        return [line for line in lines if any(word in line for word in WORDS) and not self._is_expected(line)]

    def _is_expected(self, line: str) -> bool:
        """In named namespaces kopf says that it may not watch definitions, and goes on."""
        return CLUSTER_ONLY in line and not any(right[1] == CLUSTER_ONLY for right in self.allowed)

    def watched(self, settings: dict[str, str]) -> str:
        """What the operator with these rights fails at, as its own process, which is killed then: it holds nothing."""
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig_of(self.plane, self.name, self.folder)),
            "LLMSERVICE_HTTP_PORT": "0",
            "LLMSERVICE_ENGINE_IMAGE": "engine:1",
            "LLMSERVICE_ROUTER_IMAGE": "router:1",
            **settings,
        }
        with self.log.open("w") as output:
            command = [sys.executable, "-m", "llmservice_operator"]
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            return self.failed_at()
        finally:
            process.kill()
            process.wait()

    def failed_at(self) -> str:
        """The first step that did not come, or a refusal on the way; empty when all went well."""
        for step in STEPS:
            deadline_s = time.monotonic() + STEP_S
            while not step(self):
                if refused := self.refusals():
                    return refused[0]
                if time.monotonic() > deadline_s:
                    return f"{step.__name__} did not come"
                time.sleep(0.5)
        time.sleep(LAST_S)
        return next(iter(self.refusals()), "")


def first(place: Place) -> bool:
    """A service with two pools, children of every kind, and what is told of it."""
    if not place.items("llmsvc"):
        body = {**SMALL, "metadata": {"name": "small"}, "spec": {**SMALL["spec"], "scaling": SCALING}}
        place.kubectl("create", "-f", "-", stdin=yaml.safe_dump(body))
    return place.has_children() and place.is_ready()


def put_back(place: Place) -> bool:
    """Children that somebody deleted come back, with Events."""
    if not place.done("delete"):
        place.kubectl("delete", KINDS, "-l", contract.LABEL_NAME)
    told = {event["reason"] for event in place.items("events")}
    return place.has_children() and "Restored" in told


def unmarked(place: Place) -> bool:
    """The mark of a drain that somebody else set goes, and so does a policy that nobody wants any more."""
    decode = f"{contract.LABEL_POOL}=decode"
    if not json.loads(place.kubectl("get", "pod", "-l", decode, "-o", "json"))["items"]:
        return False
    if not place.done("mark"):
        place.kubectl("annotate", "pod", "-l", decode, f"{contract.ANNOTATION_DRAIN}=2026-01-01T00:00:00Z")
        place.kubectl("create", "-f", "-", stdin=yaml.safe_dump(place.stray_policy()))
    pods = json.loads(place.kubectl("get", "pod", "-l", decode, "-o", "json"))["items"]
    marked = [p for p in pods if contract.ANNOTATION_DRAIN in p["metadata"].get("annotations", {})]
    return not marked and STRAY not in place.names("networkpolicies")


def other_pools(place: Place) -> bool:
    """Another shape of the service: Deployments, Services and budgets of the old pools go."""
    if not place.done("reshape"):
        pools = {"prefill": None, "decode": None, "mixed": {"maxReplicas": 2}}
        spec = json.dumps({"spec": {"disaggregation": "Never", "pools": pools}})
        place.kubectl("patch", "llmsvc", "small", "--type=merge", "-p", spec)
    names = place.names("services") | place.names("pdb") | place.names("deployments")
    return "small-mixed" in names and not [n for n in names if n.startswith(("small-decode", "small-prefill"))]


STEPS: tuple[Callable[[Place], bool], ...] = (first, put_back, unmarked, other_pools)


@pytest.fixture(scope="module")
def granted(render: Render) -> set[Right]:
    """What the chart grants in each of the namespaces that it is told to watch."""
    return rights(the(render("watchNamespaces={team-a}"), "Role")["rules"])


def attempt(place: Place) -> str:
    place.grant()
    settings = {"LLMSERVICE_WATCH_NAMESPACES": place.name, "LLMSERVICE_NETWORK_POLICIES": PEERS}
    return place.watched(settings)


def test_each_right_of_the_chart_is_needed(own_plane: ControlPlane, granted: set[Right], tmp_path: Path) -> None:
    places = [
        Place(own_plane, f"without-{number}", granted - {right}, tmp_path / str(number))
        for number, right in enumerate(sorted(granted))
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        whole = pool.submit(attempt, Place(own_plane, "with-all", set(granted), tmp_path / "all"))
        found = dict(zip(sorted(granted), pool.map(attempt, places), strict=True))
    assert whole.result() == "", "the operator with all its rights is never refused"
    assert len(found) > 35
    for right, why in found.items():
        print(f"without {' '.join(right).strip()}: {why[-160:]}")
    refused = {right for right, why in found.items() if any(word in why for word in WORDS)}
    assert [right for right, why in found.items() if not why] == [], "nobody misses these: take them out of the chart"
    assert set(found) - refused <= SILENT, "these only took too long"


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_kopf_needs_the_definitions_in_cluster_wide_mode(
    own_plane: ControlPlane, render: Render, tmp_path: Path, verb: str
) -> None:
    everything = rights(the(render(), "ClusterRole", ACCOUNT)["rules"])
    right = next(r for r in everything if r[1:] == (CLUSTER_ONLY, verb))
    place = Place(own_plane, f"cluster-{verb}", everything - {right}, tmp_path / "place")
    place.grant(cluster_wide=True)
    why = place.watched({"LLMSERVICE_NETWORK_POLICIES": PEERS})
    print(f"without {' '.join(right)}: {why}")
    assert why
