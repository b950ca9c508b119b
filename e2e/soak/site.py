"""The service under test as faults see it: its pods by kind, its sizes, and whether it is whole."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from e2e import install, kube
from e2e.chain import kill
from e2e.soak.record import Kill
from llmservice_core import contract

POOLS = ("prefill", "decode")
ROUTER = "router"


@dataclass(slots=True, kw_only=True)
class Site:
    """`sizes`: engines per pool. `router_kills` grows; answers that died with a router are told by it."""

    namespace: str
    name: str
    sizes: Mapping[str, int]
    routers: int
    router_kills: list[Kill] = field(default_factory=list)
    rolled: int = 0

    def pods(self, kind: str) -> list[Any]:
        """Of a pool, or the routers."""
        return self._of(
            kube.get("-n", self.namespace, "pods", "-l", f"{contract.LABEL_NAME}={self.name}")["items"], kind
        )

    def ready(self, kind: str) -> list[Any]:
        return [p for p in self.pods(kind) if kube.is_ready(p)]

    def operator(self) -> Any:
        (pod,) = (p for p in kube.get("-n", install.OPERATOR_NAMESPACE, "pods")["items"] if kube.is_ready(p))
        return pod

    def is_whole(self) -> bool:
        """All sizes as asked for, nothing more or on its way, the service Ready, its operator and Prometheus too."""
        try:
            return self._is_whole()
        except kube.KubectlError:  # the API server may be away
            return False

    def _is_whole(self) -> bool:
        listed = kube.get("-n", self.namespace, f"{contract.PLURAL}.{contract.GROUP},pods")["items"]
        pods = [i for i in listed if i["kind"] == "Pod" and i["metadata"].get("labels", {}).get(contract.LABEL_NAME)]
        for kind, size in {**self.sizes, ROUTER: self.routers}.items():
            mine = self._of(pods, kind)
            if len(mine) != size or not all(kube.is_ready(p) and not is_marked(p) for p in mine):
                return False
        (service,) = (i for i in listed if i["kind"] == contract.KIND and i["metadata"]["name"] == self.name)
        told = [kube.condition(service, kind) for kind in ("Ready", "MetricsAvailable")]
        return told == ["True", "True"] and self._are_helpers_ready()

    def _are_helpers_ready(self) -> bool:
        helpers = [
            kube.get("-n", namespace, "deployment", name)["status"].get("readyReplicas")
            for namespace, name in (
                ("monitoring", "prometheus"),
                (install.OPERATOR_NAMESPACE, install.OPERATOR_DEPLOYMENT),
            )
        ]
        return helpers == [1, 1]

    def _of(self, pods: list[Any], kind: str) -> list[Any]:
        label = (contract.LABEL_COMPONENT, contract.COMPONENT_ROUTER) if kind == ROUTER else (contract.LABEL_POOL, kind)
        name = (contract.LABEL_NAME, self.name)
        return [p for p in pods if {label, name} <= set(p["metadata"]["labels"].items())]

    def resize(self, pool: str, size: int) -> None:
        self.patch({"pools": {pool: {"minReplicas": size, "maxReplicas": size}}})

    def patch(self, spec: Mapping[str, Any]) -> None:
        patch = json.dumps({"spec": spec})
        kube.kubectl("-n", self.namespace, "patch", contract.PLURAL, self.name, "--type=merge", "-p", patch)

    def kill(self, pod: Any, namespace: str | None = None) -> None:
        kill.sigkill_and_see(namespace or self.namespace, pod)

    def kill_router(self, pod: Any) -> None:
        """The kill is on record before the wait for Kubernetes to notice: its streams end at once."""
        before_s = time.monotonic()
        container = kill.container_id(pod)
        kill.sigkill(pod)
        self.router_kills.append(Kill(before_s=before_s, after_s=time.monotonic()))
        name = pod["metadata"]["name"]
        kube.wait_for(
            f"the kubelet to notice that {name} died",
            lambda: kill.container_id(kube.get("-n", self.namespace, "pod", name)) != container,
            kill.NOTICED_S,
        )


def is_marked(pod: Any) -> bool:
    return contract.ANNOTATION_DRAIN in (pod["metadata"].get("annotations") or {})
