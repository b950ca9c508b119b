"""The kinds of objects that the operator touches, and their places in the API. No calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmservice_core import contract

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    api_version: str
    kind: str
    plural: str
    optional: bool = False
    """The cluster may not know this kind at all."""

    def path(self, namespace: str | None, name: str | None = None) -> str:
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        where = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{where}/{self.plural}" + (f"/{name}" if name else "")


LLMSERVICE = Kind(api_version=f"{contract.GROUP}/{contract.VERSION}", kind=contract.KIND, plural=contract.PLURAL)
POD = Kind(api_version="v1", kind="Pod", plural="pods")
EVENT = Kind(api_version="v1", kind="Event", plural="events")
SERVICE_ACCOUNT = Kind(api_version="v1", kind="ServiceAccount", plural="serviceaccounts")
ROLE = Kind(api_version="rbac.authorization.k8s.io/v1", kind="Role", plural="roles")
ROLE_BINDING = Kind(api_version="rbac.authorization.k8s.io/v1", kind="RoleBinding", plural="rolebindings")
SERVICE = Kind(api_version="v1", kind="Service", plural="services")
DISRUPTION_BUDGET = Kind(api_version="policy/v1", kind="PodDisruptionBudget", plural="poddisruptionbudgets")
POD_MONITOR = Kind(api_version="monitoring.coreos.com/v1", kind="PodMonitor", plural="podmonitors", optional=True)
NETWORK_POLICY = Kind(api_version="networking.k8s.io/v1", kind="NetworkPolicy", plural="networkpolicies", optional=True)
"""Optional as a right: whoever grants the operator's rights by hand may leave it out where none are asked for."""
DEPLOYMENT = Kind(api_version="apps/v1", kind="Deployment", plural="deployments")

CHILD_KINDS = (
    SERVICE_ACCOUNT,
    ROLE,
    ROLE_BINDING,
    SERVICE,
    DISRUPTION_BUDGET,
    NETWORK_POLICY,
    POD_MONITOR,
    DEPLOYMENT,
)
"""In the order in which children are made: rights and names before the pods that need them."""

_BY_NAME = {(k.api_version, k.kind): k for k in (*CHILD_KINDS, LLMSERVICE, POD, EVENT)}


def kind_of(manifest: Mapping[str, Any]) -> Kind:
    return _BY_NAME[manifest["apiVersion"], manifest["kind"]]


def name_of(manifest: Mapping[str, Any]) -> str:
    return str(manifest["metadata"]["name"])


def namespace_of(manifest: Mapping[str, Any]) -> str:
    return str(manifest["metadata"].get("namespace", ""))


def labels_of(manifest: Mapping[str, Any]) -> Mapping[str, str]:
    return manifest["metadata"].get("labels") or {}


def annotations_of(manifest: Mapping[str, Any]) -> Mapping[str, str]:
    return manifest["metadata"].get("annotations") or {}
