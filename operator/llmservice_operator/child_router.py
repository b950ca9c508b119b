"""The router of a service: its Deployment, the Service that clients talk to, and the few rights that it needs. Pure."""

from typing import Any

from llmservice_api.resource import LLMService
from llmservice_core import contract
from llmservice_operator import kinds, pod_security
from llmservice_operator.child_parts import described, identity, manifest, router_name
from llmservice_operator.errors import Misconfigured
from llmservice_operator.kinds import Manifest
from llmservice_operator.merge import merge_template
from llmservice_operator.settings import Settings

KEYS_VOLUME = "api-keys"
READ_BY_ALL = 0o444
"""Files of the Secret inside the pod: the router is not root, and no other container mounts them."""
HOOK_S = 5
FINISH_S = 120


def account(service: LLMService) -> list[Manifest]:
    """A ServiceAccount that may watch the pods of its namespace and read its own LLMService, no more."""
    name, labels = router_name(service), identity(service, contract.COMPONENT_ROUTER)
    rules: list[dict[str, Any]] = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {
            "apiGroups": [contract.GROUP],
            "resources": [contract.PLURAL],
            "resourceNames": [service.metadata.name],
            "verbs": ["get", "list", "watch"],
        },
    ]
    subject = {"kind": "ServiceAccount", "name": name, "namespace": service.metadata.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    return [
        manifest(kinds.SERVICE_ACCOUNT, service, name, labels),
        manifest(kinds.ROLE, service, name, labels, rules=rules),
        manifest(kinds.ROLE_BINDING, service, name, labels, roleRef=role, subjects=[subject]),
    ]


def services(service: LLMService) -> list[Manifest]:
    """`<name>` on port 80 for clients, and a headless one by which every router can be addressed."""
    labels = identity(service, contract.COMPONENT_ROUTER)
    api = {
        "type": "ClusterIP",
        "selector": labels,
        "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
    }
    headless = {
        "clusterIP": "None",
        "selector": labels,
        "ports": [
            {"name": "http", "port": contract.PORT_ROUTER_HTTP, "targetPort": "http", "protocol": "TCP"},
            {"name": "metrics", "port": contract.PORT_ROUTER_METRICS, "targetPort": "metrics", "protocol": "TCP"},
        ],
    }
    return [
        manifest(kinds.SERVICE, service, service.metadata.name, labels, spec=api),
        manifest(kinds.SERVICE, service, router_name(service), labels, spec=headless),
    ]


def deployment(service: LLMService, settings: Settings) -> Manifest:
    labels = identity(service, contract.COMPONENT_ROUTER)
    return manifest(
        kinds.DEPLOYMENT,
        service,
        router_name(service),
        labels,
        spec={
            "replicas": service.spec.router.replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "revisionHistoryLimit": 2,
            "template": _template(service, settings),
        },
    )


def _template(service: LLMService, settings: Settings) -> Manifest:
    """With what the user adds; the account stays ours, since its rights are what a router lives by."""
    identity_env = [{"name": contract.ENV_SERVICE, "value": service.key}]
    if service.api_keys_secret:
        identity_env.append({"name": contract.ENV_KEYS_DIR, "value": contract.KEYS_PATH})
    ours = {
        "metadata": {"labels": described(identity(service, contract.COMPONENT_ROUTER), service)},
        "spec": _pod(service, settings, identity_env),
    }
    partial = service.spec.router.template
    theirs = partial.model_dump(exclude_none=True) if partial else None
    merged = merge_template(ours, theirs, identity_env, "spec.router.template", settings.pod_template)
    merged["spec"]["serviceAccountName"] = router_name(service)
    if service.api_keys_secret:
        _mount_keys(merged["spec"], service.api_keys_secret)
    return merged


def _mount_keys(pod: Manifest, secret: str) -> None:
    """A file per tenant, so that the router needs no right to read Secrets, and the operator none to grant it.

    A Secret that does not exist keeps the pod from starting: a router without keys would have to refuse everybody.
    """
    volume = {"name": KEYS_VOLUME, "secret": {"secretName": secret, "defaultMode": READ_BY_ALL}}
    mount = {"name": KEYS_VOLUME, "mountPath": contract.KEYS_PATH, "readOnly": True}
    container = pod["containers"][0]
    pod["volumes"] = [*(v for v in pod.get("volumes", []) if v["name"] != KEYS_VOLUME), volume]
    others = [m for m in container.get("volumeMounts", []) if m["mountPath"] != contract.KEYS_PATH]
    container["volumeMounts"] = [*others, mount]


def _pod(service: LLMService, settings: Settings, identity_env: list[Manifest]) -> Manifest:
    return {
        "serviceAccountName": router_name(service),
        "terminationGracePeriodSeconds": HOOK_S + FINISH_S + 10,
        "enableServiceLinks": False,
        "securityContext": pod_security.pod_context(),
        "containers": [_container(service, settings, identity_env)],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def _container(service: LLMService, settings: Settings, identity_env: list[Manifest]) -> Manifest:
    image = service.spec.router.image or settings.router_image
    if not image:
        raise Misconfigured("set spec.router.image: the operator was started without LLMSERVICE_ROUTER_IMAGE")
    return {
        "name": "router",
        "image": image,
        "command": ["python", "-m", "llmservice_serving.router"],
        "env": identity_env,
        "ports": [
            {"name": "http", "containerPort": contract.PORT_ROUTER_HTTP, "protocol": "TCP"},
            {"name": "metrics", "containerPort": contract.PORT_ROUTER_METRICS, "protocol": "TCP"},
        ],
        "readinessProbe": _probe("/readyz", period_s=2, failures=3),
        "livenessProbe": _probe("/healthz", period_s=10, failures=6),
        # The Service forgets a leaving pod within the hook; open streams then get the rest of the grace.
        "lifecycle": {"preStop": {"sleep": {"seconds": HOOK_S}}},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "securityContext": pod_security.container_context(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }


def _probe(path: str, *, period_s: int, failures: int) -> Manifest:
    request = {"path": path, "port": "metrics", "scheme": "HTTP"}
    return {"httpGet": request, "periodSeconds": period_s, "timeoutSeconds": 5, "failureThreshold": failures}
