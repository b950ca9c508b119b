"""The part of the resource that says what runs: the model, the engines, the router. No sizes, no targets."""

from typing import Annotated, Any

from pydantic import Field

from llmservice_api.fields import (
    AutoOrTokens,
    EngineArg,
    EnvName,
    Image,
    ObjectName,
    OpenObject,
    Policy,
    Replicas,
    SecretName,
)
from llmservice_api.pod_template import PartialPodTemplate
from llmservice_api.rules import Must, Node, matches
from llmservice_core.picking import Policy as Routing

LIST_MAP = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
ATOMIC = {"x-kubernetes-list-type": "atomic"}

ModelName = Annotated[
    str,
    Field(max_length=512),
    Must(
        matches(
            "^[^ -][^ ]*$",
            "name the model: an id of the hub (meta-llama/Llama-3.1-8B-Instruct) or a path in the pod",
        )
    ),
]


class SecretKey(Node):
    name: ObjectName
    key: Annotated[str, Field(min_length=1, max_length=253)] = "token"


class ModelCache(Node):
    persistent_volume_claim: ObjectName = Field(description="Claim in this namespace that keeps downloaded models.")


class Model(Node):
    """What is served, and where its weights come from."""

    name: ModelName = Field(description="An id of the hub, or a path in the pod.")
    served_name: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(
        None, description="What clients ask for in `model`. Unset: the name of this resource."
    )
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        None, description="Branch, tag or commit of the model in the hub."
    )
    max_model_len: Annotated[int, Field(ge=16, le=100_000_000)] | None = Field(
        None, description="Longest context in tokens. Unset: the model's own."
    )
    token_secret: SecretKey | None = Field(None, description="Secret with the token of the hub.")
    cache: ModelCache | None = None


class EnvVar(Node):
    name: EnvName
    value: Annotated[str, Field(max_length=8192)] | None = None
    value_from: OpenObject | None = Field(None, description="As in a pod: secretKeyRef, configMapKeyRef, fieldRef.")

    def to_pod(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True, exclude_none=True)


class Scheduler(Node):
    policy: Policy = Field(
        "slai-plus",
        description="slai-plus: ours, by the deadlines of the classes; slai: SLAI; fcfs: the engine's own order; the"
        " others for comparison. Settings of a policy: engine.args, --additional-config.",
    )
    token_budget: AutoOrTokens = Field(
        "auto", description="Most tokens of one step. auto: what the tightest TBT of the decodes in it allows."
    )


class Engine(Node):
    """vLLM, the same in every pool."""

    image: Image | None = Field(None, description="Unset: the operator's own setting.")
    args: Annotated[list[EngineArg], Field(max_length=64, json_schema_extra=ATOMIC)] = Field(
        default_factory=list, description="Further arguments of `vllm serve`; they come last."
    )
    env: Annotated[list[EnvVar], Field(max_length=64, json_schema_extra=LIST_MAP)] = Field(default_factory=list)
    accelerator_resource: ObjectName = Field(
        "nvidia.com/gpu", description="Extended resource that a replica asks for, gpusPerReplica of it."
    )
    scheduler: Scheduler = Field(default_factory=Scheduler)


class Access(Node):
    """Who may come in. Without it whoever reaches the router may."""

    api_keys_secret: SecretName = Field(
        description="Secret in this namespace with one entry per tenant: its keys, classes and tokens per minute."
    )


class Router(Node):
    """The OpenAI API in front of the pools."""

    replicas: Replicas = 1
    image: Image | None = Field(None, description="Unset: the operator's own setting.")
    template: PartialPodTemplate | None = Field(
        None,
        description="Partial pod template, merged into ours as for pools: imagePullSecrets, tolerations, resources.",
    )
    routing: Routing = Field(
        Routing.SHORTEST_QUEUE,
        description="How the engine of a prompt is chosen: shortest-queue by predicted work; random; power-of-two;"
        " prefix-affinity: where its beginning was computed; session: by header x-llmservice-session.",
    )
    resume: bool = Field(
        True,
        description="A stream whose engine dies goes on in another one with the same tokens, where that is exact"
        " (docs/losses.md). Engines then tell the router the token ids of streams.",
    )
    access: Access | None = Field(None, description="Unset: open to whoever reaches the router.")
