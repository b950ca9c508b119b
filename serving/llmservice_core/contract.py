"""Names that several components share: group, labels, annotations, ports, environment, headers. Nothing else.

Metric names live in `metric_names.py`. A name is written once, here, and imported everywhere.
"""

from typing import Final

GROUP: Final = "llmservice.dev"
VERSION: Final = "v1alpha1"
KIND: Final = "LLMService"
PLURAL: Final = "llmservices"
FIELD_MANAGER: Final = "llmservice-operator"

LABEL_NAME: Final = f"{GROUP}/name"
LABEL_COMPONENT: Final = f"{GROUP}/component"
LABEL_POOL: Final = f"{GROUP}/pool"
LABEL_REVISION: Final = f"{GROUP}/revision"
COMPONENT_ENGINE: Final = "engine"
COMPONENT_ROUTER: Final = "router"

ANNOTATION_DRAIN: Final = f"{GROUP}/drain"
"""On a pod: RFC 3339 time since which routers send it nothing new."""
ANNOTATION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
"""Kubernetes' own: of the Ready pods of a ReplicaSet the one with the least goes first; unset is 0."""
COST_DRAINING: Final = "-1000"
COST_RELEASED: Final = "-2000"
ANNOTATION_MODEL: Final = f"{GROUP}/model"
"""On an engine's pod: the weights that it serves. A stream may go on in another engine of the same."""

PORT_ENGINE_HTTP: Final = 8000
PORT_ENGINE_METRICS: Final = 9400
PORT_NIXL_SIDE_CHANNEL: Final = 5600
PORT_ROUTER_HTTP: Final = 8080
PORT_ROUTER_METRICS: Final = 9401
PORT_OPERATOR: Final = 9402

ENV_SERVICE: Final = "LLMSERVICE_SERVICE"
"""`<namespace>/<name>` of the LLMService that a process serves; the value of metric label `llmservice`."""
ENV_POOL: Final = "LLMSERVICE_POOL"
ENV_METRICS_PORT: Final = "LLMSERVICE_METRICS_PORT"
ENV_METRICS_HOST: Final = "LLMSERVICE_METRICS_HOST"
"""Address the engine exporter listens on; unset: all."""
ENV_POLICY: Final = "LLMSERVICE_POLICY"
ENV_TOKEN_BUDGET: Final = "LLMSERVICE_TOKEN_BUDGET"
"""Most tokens of a step, or `auto`: what the tightest TBT among the decodes allows."""
ENV_PACE: Final = "LLMSERVICE_PACE"
ENV_TRACE: Final = "LLMSERVICE_TRACE"
"""File to which an engine writes its steps as a Chrome trace."""
ENV_NIXL_HOST: Final = "VLLM_NIXL_SIDE_CHANNEL_HOST"
ENV_NIXL_PORT: Final = "VLLM_NIXL_SIDE_CHANNEL_PORT"

SCHEDULER_CLASS: Final = "llmservice_serving.vllm_scheduler.SLAI"
KV_CONNECTOR: Final = "NixlConnector"
KV_CONNECTOR_MODULE: Final = "llmservice_serving.nixl_calm"

ENV_KEYS_DIR: Final = "LLMSERVICE_ROUTER_KEYS_DIR"
"""Folder with one file per tenant, as the Secret of API keys is mounted; unset: the router is open."""
KEYS_PATH: Final = "/etc/llmservice/api-keys"

HEADER_CLASS: Final = "x-llmservice-class"
HEADER_SESSION: Final = "x-llmservice-session"
"""Any text of the client's: requests that carry the same go to the same engine under routing `session`."""

XARG_CLASS: Final = "class"
XARG_TENANT: Final = "tenant"
XARG_TTFT_S: Final = "ttft_s"
XARG_TBT_S: Final = "tbt_s"
XARG_AGE_S: Final = "age_s"
"""Keys of the flat `vllm_xargs` dict that the router sends and the engine scheduler reads."""

STRIPPED_FIELDS: Final = ("vllm_xargs", "kv_transfer_params", "priority", "cache_salt")
"""Body fields that a client may not choose: they could name the remote KV host or another class."""
FIELD_CACHE_SALT: Final = "cache_salt"
"""Body field of vLLM: prefix cache blocks are shared only between requests of one salt."""


PATH_SCHEDULE: Final = "/debug/schedule"
"""Of the engine exporter: the present decision, as JSON."""
PATH_LEAVE: Final = "/leave"
"""Of the engine exporter: answers when the engine has nothing left to do, or after `?within=` seconds."""
PATH_FLEET: Final = "/fleet"
"""Of the router's metrics port: engines with their state and this router's requests on them, as JSON."""
PATH_CALLS: Final = "/calls"
"""Of the router's metrics port: since when it has had no request, and how many wait, as JSON."""

CONDITION_ASLEEP: Final = "Asleep"
CONDITION_PROGRESSING: Final = "Progressing"
REASON_ROLLOUT_PAUSE: Final = "RolloutPause"
"""Of Progressing: no engine serves until the new revision does."""


def target_label(target_s: float) -> str:
    """Metric label value of an SLO target, seconds as `%g`: 0.5 -> "0.5", 30.0 -> "30"."""
    return f"{target_s:g}"
