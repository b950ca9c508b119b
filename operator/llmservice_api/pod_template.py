"""The user's part of a pod template. Open on purpose: the API server checks it as a pod when we apply it."""

from pydantic import Field

from llmservice_api.fields import OpenObject
from llmservice_api.rules import Node


class PartialPodTemplate(Node):
    """`metadata` (labels, annotations) and `spec` (as in a pod); both partial."""

    metadata: OpenObject | None = Field(None, description="Labels and annotations; ours win.")
    spec: OpenObject | None = Field(
        None, description="Partial PodSpec. Our container is called engine, in routers router."
    )
