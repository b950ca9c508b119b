"""Engine pods and their Deployments: vLLM with our scheduler, one Deployment per (pool, revision). Pure."""

import json
from collections.abc import Mapping
from math import ceil

from llmservice_api.resource import LLMService
from llmservice_core import contract
from llmservice_core.model import Pool
from llmservice_operator import pod_security
from llmservice_operator.child_parts import (
    ANNOTATION_HELD,
    ANNOTATION_REPLICAS,
    ANNOTATION_ROLLOUT,
    described,
    digest,
    identity,
    manifest,
    pool_name,
)
from llmservice_operator.errors import Misconfigured
from llmservice_operator.kinds import DEPLOYMENT, Manifest
from llmservice_operator.merge import merge_template
from llmservice_operator.settings import Settings

CONTAINER = "engine"
CACHE_PATH = "/var/cache/huggingface"
HOME = "/tmp"
"""The only place beside the model cache and /dev/shm where an engine may write: compiled kernels, downloads."""
LOAD_S = 900
"""Time that weights may take to load before the kubelet gives up on a start."""
REST_S = 30
"""Beyond the drain deadline: what the process itself takes to end, after its hook and its running streams."""


def templates(service: LLMService, settings: Settings) -> dict[Pool, Manifest]:
    """The pod template of each pool, without the revision that is made of them."""
    return {pool: _template(service, pool, settings) for pool in service.pools}


def revision(pod_templates: Mapping[Pool, Manifest]) -> str:
    """One for the whole service: routers never pair pods of different revisions, so pools change together."""
    return digest({pool.value: template for pool, template in pod_templates.items()})


def deployment(
    service: LLMService,
    pool: Pool,
    template: Manifest,
    revision: str,
    replicas: int,
    held: int = 0,
    *,
    for_now: int | None = None,
    why: str | None = None,
) -> Manifest:
    """`held`: pods beyond the decided size that are there until they have drained. `for_now`: fewer replicas than were
    decided, while an earlier revision gives way; `why` goes into the annotation."""
    asked = replicas if for_now is None else for_now
    labels = identity(service, contract.COMPONENT_ENGINE) | {
        contract.LABEL_POOL: pool.value,
        contract.LABEL_REVISION: revision,
    }
    pod_labels = {**template["metadata"]["labels"], contract.LABEL_REVISION: revision}
    made = manifest(
        DEPLOYMENT,
        service,
        f"{pool_name(service, pool)}-{revision}",
        labels,
        spec={
            "replicas": asked + held,
            "selector": {"matchLabels": labels},
            # A template never changes within a revision. Where somebody edits it and we put it back, no GPU is
            # asked for beyond those that the pool has.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "progressDeadlineSeconds": LOAD_S + 300,
            "revisionHistoryLimit": 2,
            "template": {**template, "metadata": {**template["metadata"], "labels": pod_labels}},
        },
    )
    notes = {ANNOTATION_HELD: str(held)} if held else {}
    notes |= {ANNOTATION_ROLLOUT: why} if why is not None and asked < replicas else {}
    made["metadata"]["annotations"] = {ANNOTATION_REPLICAS: str(replicas)} | notes
    return made


def _template(service: LLMService, pool: Pool, settings: Settings) -> Manifest:
    labels = identity(service, contract.COMPONENT_ENGINE) | {contract.LABEL_POOL: pool.value}
    known = _identity_env(service, pool)
    ours: Manifest = {
        "metadata": {
            "labels": described(labels, service),
            "annotations": {contract.ANNOTATION_MODEL: _weights(service)},
        },
        "spec": {
            "containers": [_container(service, pool, settings, known)],
            "volumes": _volumes(service),
            "securityContext": _pod_context(service),
            "terminationGracePeriodSeconds": _drain_s(service) + REST_S,
            "automountServiceAccountToken": False,
            # An engine that is still loading has no handler for SIGTERM. As process 1 the kernel would not deliver it,
            # and a pod taken back during its start would hold its GPU for the whole grace period.
            "shareProcessNamespace": True,
            # Docker links of a Service called `vllm` would become VLLM_PORT and break the engine's own settings.
            "enableServiceLinks": False,
        },
    }
    partial = service.pool(pool).template
    theirs = partial.model_dump(exclude_none=True) if partial else None
    return merge_template(ours, theirs, known, f"spec.pools.{pool.value}.template", settings.pod_template)


def _pod_context(service: LLMService) -> Manifest:
    """The cache must be writable for a user that is not root; its files change hands only if they are another's."""
    context = pod_security.pod_context()
    if service.spec.model.cache is None:
        return context
    return context | {"fsGroup": pod_security.USER, "fsGroupChangePolicy": "OnRootMismatch"}


def _container(service: LLMService, pool: Pool, settings: Settings, known: list[Manifest]) -> Manifest:
    engine = service.spec.engine
    gpus = str(service.pool(pool).gpus_per_replica)
    return {
        "name": CONTAINER,
        "image": _image(service, settings),
        "command": ["vllm", "serve"],
        "args": _arguments(service, pool),
        "env": [*known, *_model_env(service), *(variable.to_pod() for variable in engine.env)],
        "ports": [
            {"name": "http", "containerPort": contract.PORT_ENGINE_HTTP, "protocol": "TCP"},
            {"name": "metrics", "containerPort": contract.PORT_ENGINE_METRICS, "protocol": "TCP"},
            {"name": "nixl", "containerPort": contract.PORT_NIXL_SIDE_CHANNEL, "protocol": "TCP"},
        ],
        "resources": {
            "limits": {engine.accelerator_resource: gpus},
            "requests": {engine.accelerator_resource: gpus},
        },
        "securityContext": pod_security.container_context(),
        "volumeMounts": _mounts(service),
        **_probes(_drain_s(service)),
    }


def _drain_s(service: LLMService) -> int:
    return ceil(service.drain_deadline_s)


def _weights(service: LLMService) -> str:
    model = service.spec.model
    return model.name if model.revision is None else f"{model.name}@{model.revision}"


def _image(service: LLMService, settings: Settings) -> str:
    image = service.spec.engine.image or settings.engine_image
    if not image:
        raise Misconfigured("set spec.engine.image: the operator has no image of its own for engines")
    return image


def _arguments(service: LLMService, pool: Pool) -> list[str]:
    model, engine = service.spec.model, service.spec.engine
    gpus = service.pool(pool).gpus_per_replica
    budget = engine.scheduler.token_budget
    options = {
        "--served-model-name": service.served_name,
        "--host": "0.0.0.0",
        "--port": str(contract.PORT_ENGINE_HTTP),
        "--scheduler-cls": contract.SCHEDULER_CLASS,
        # Without it vLLM aborts what runs at SIGTERM. The hook below waits before that; this is for a hook that failed.
        "--shutdown-timeout": str(_drain_s(service)),
        "--revision": model.revision,
        "--max-model-len": _text(model.max_model_len),
        "--max-num-batched-tokens": None if budget == "auto" else str(budget),
        "--tensor-parallel-size": str(gpus) if gpus > 1 else None,
        "--kv-transfer-config": None if pool is Pool.MIXED else json.dumps(kv_transfer()),
    }
    # Without the flag usage names no cached tokens, and the planner would count them as work.
    flags = ["--enable-prompt-tokens-details"]
    given = [part for name, value in options.items() if value is not None for part in (name, value)]
    return [model.name, *given, *flags, *engine.args]


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


def kv_transfer() -> dict[str, str]:
    """The same in both pools: either pod can prefill or decode, so that a role can change without a restart."""
    return {
        "kv_connector": contract.KV_CONNECTOR,
        "kv_connector_module_path": contract.KV_CONNECTOR_MODULE,
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
    }


def _identity_env(service: LLMService, pool: Pool) -> list[Manifest]:
    """Who the process is. Users cannot change it: metrics and KV transfer would go astray."""
    address = {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}
    return [
        {"name": contract.ENV_SERVICE, "value": service.key},
        {"name": contract.ENV_POOL, "value": pool.value},
        {"name": contract.ENV_METRICS_PORT, "value": str(contract.PORT_ENGINE_METRICS)},
        {"name": contract.ENV_POLICY, "value": service.spec.engine.scheduler.policy},
        {"name": contract.ENV_NIXL_HOST, "valueFrom": address},
        {"name": contract.ENV_NIXL_PORT, "value": str(contract.PORT_NIXL_SIDE_CHANNEL)},
    ]


def _model_env(service: LLMService) -> list[Manifest]:
    """From the fields of the model; a variable that the user sets himself is his."""
    model = service.spec.model
    # torch looks up the user's name and fails for one that the image does not know, unless these say it.
    found: list[Manifest] = [{"name": "HOME", "value": HOME}, {"name": "USER", "value": "llmservice"}]
    if model.token_secret is not None:
        reference = {"name": model.token_secret.name, "key": model.token_secret.key}
        found.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    if model.cache is not None:
        found.append({"name": "HF_HOME", "value": CACHE_PATH})
    said = {variable.name for variable in service.spec.engine.env}
    return [variable for variable in found if variable["name"] not in said]


def _volumes(service: LLMService) -> list[Manifest]:
    volumes: list[Manifest] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}, {"name": "tmp", "emptyDir": {}}]
    if service.spec.model.cache is not None:
        claim = {"claimName": service.spec.model.cache.persistent_volume_claim}
        volumes.append({"name": "model-cache", "persistentVolumeClaim": claim})
    return volumes


def _mounts(service: LLMService) -> list[Manifest]:
    mounts: list[Manifest] = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "tmp", "mountPath": HOME}]
    if service.spec.model.cache is not None:
        mounts.append({"name": "model-cache", "mountPath": CACHE_PATH})
    return mounts


def _probes(drain_s: int) -> Manifest:
    health = {"httpGet": {"path": "/health", "port": "http", "scheme": "HTTP"}}
    return {
        "startupProbe": {**health, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": LOAD_S // 2},
        "readinessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        # Generous: a long step or a busy node is no reason to lose all KV.
        "livenessProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
        # Answered when nothing is left to do. An engine that has no such port yet has served nobody.
        "lifecycle": {
            "preStop": {
                "httpGet": {"path": f"{contract.PATH_LEAVE}?within={drain_s}", "port": "metrics", "scheme": "HTTP"}
            }
        },
    }
