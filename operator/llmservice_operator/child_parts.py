"""What all children share: names, labels, owner, the frame of a manifest. Pure."""

import hashlib
import json
from typing import Any

from llmservice_api.resource import LLMService
from llmservice_core import contract
from llmservice_core.model import Pool
from llmservice_operator.kinds import Kind, Manifest

ANNOTATION_REPLICAS = f"{contract.GROUP}/replicas"
"""On an engine Deployment: the size that was decided. Differs from spec.replicas when somebody else scaled it."""
ANNOTATION_HELD = f"{contract.GROUP}/held"
"""On an engine Deployment: replicas beyond that size, there until they have drained; absent when there are none."""
ANNOTATION_ROLLOUT = f"{contract.GROUP}/rollout"
"""On an engine Deployment that has fewer replicas than were decided, for an earlier revision still holds GPUs:
`budget`, or how many GPUs the cluster was found to have for both."""

_APP = "app.kubernetes.io"


def identity(service: LLMService, component: str) -> dict[str, str]:
    """The labels by which children are found; never changed, for selectors are immutable."""
    return {contract.LABEL_NAME: service.metadata.name, contract.LABEL_COMPONENT: component}


def described(labels: dict[str, str], service: LLMService) -> dict[str, str]:
    """The labels and the usual ones for people's dashboards."""
    return {
        **labels,
        f"{_APP}/name": "llmservice",
        f"{_APP}/instance": service.metadata.name,
        f"{_APP}/managed-by": contract.FIELD_MANAGER,
    }


def manifest(kind: Kind, service: LLMService, name: str, labels: dict[str, str], **body: Any) -> Manifest:
    """A child in the service's namespace that is garbage-collected with it, also while no operator runs."""
    owner = {
        "apiVersion": service.api_version,
        "kind": service.kind,
        "name": service.metadata.name,
        "uid": service.metadata.uid,
        "controller": True,
    }
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": name,
            "namespace": service.metadata.namespace,
            "labels": described(labels, service),
            "ownerReferences": [owner],
        },
        **body,
    }


def router_name(service: LLMService) -> str:
    return f"{service.metadata.name}-router"


def pool_name(service: LLMService, pool: Pool) -> str:
    return f"{service.metadata.name}-{pool.value}"


def digest(value: Any) -> str:
    """Eight characters that change when the value does; the same in every process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
