"""Which order an engine was started with. No vLLM."""

from __future__ import annotations

import os

from llmservice_core import contract
from llmservice_core.ordering import POLICIES, Policy

STOCK = "fcfs"
"""The engine's own order: no policy of ours."""


def from_environment() -> Policy | None:
    """The order that LLMSERVICE_POLICY asks for; None: vLLM's own. A name that does not exist stops the engine."""
    name = os.environ.get(contract.ENV_POLICY) or "slai"
    if name != STOCK and name not in POLICIES:
        raise ValueError(f"{contract.ENV_POLICY}={name!r}: there are {', '.join((STOCK, *POLICIES))}")
    return POLICIES.get(name)
