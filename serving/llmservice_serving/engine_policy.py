"""Which order an engine was started with. No vLLM."""

from __future__ import annotations

import os

from llmservice_core import contract
from llmservice_core.bulk import Bulk
from llmservice_core.ordering import POLICIES, Policy

STOCK = "fcfs"
"""The engine's own order: no policy of ours."""
PLUS = Bulk().name
"""Every token of a step is planned (core/bulk.py); where that cannot be, SLAI's order."""


def from_environment() -> tuple[str, Policy | None]:
    """The name that LLMSERVICE_POLICY gives, and the order for it; None: vLLM's own. Another name stops the engine."""
    name = os.environ.get(contract.ENV_POLICY) or "slai"
    known = (STOCK, *POLICIES, PLUS)
    if name not in known:
        raise ValueError(f"{contract.ENV_POLICY}={name!r}: there are {', '.join(known)}")
    return name, POLICIES["slai"] if name == PLUS else POLICIES.get(name)
