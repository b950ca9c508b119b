"""How much is generated: a share in every run of the tests, all of it by `make fuzz`."""

import os

SHARE = float(os.environ.get("LLMSERVICE_FUZZ", "0.05"))
"""Of the whole; LLMSERVICE_FUZZ=1 is all."""

SHOTS = int(10_000 * SHARE)
"""Requests at the router."""
MANIFESTS = int(10_000 * SHARE)
"""LLMServices at the API server, by dry-run."""
PARTS = max(1, MANIFESTS // 1000)
"""Several may run side by side: `-k "rendered and 3"`."""
SERVICES = int(300 * SHARE)
"""LLMServices through the operator."""
