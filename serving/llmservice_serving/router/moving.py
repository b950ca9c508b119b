"""Takes from engines whose time to leave is over what they still have; it goes on elsewhere, as after a crash."""

import asyncio
import logging
import time

from llmservice_core.routing import overdue
from llmservice_serving.router.state import Shared

LOG = logging.getLogger("llmservice.router")
EVERY_S = 1.0
"""As exact as a deadline of minutes need be; clocks of pods and the operator's differ as much."""


async def follow(shared: Shared) -> None:
    while True:
        move(shared, time.time())
        await asyncio.sleep(EVERY_S)


def move(shared: Shared, now_s: float) -> int:
    """How many requests were taken from their engines. `now_s`: Unix time."""
    if shared.config is None:
        return 0
    taken = 0
    for engine in overdue(shared.fleet.snapshot(), now_s, shared.config.drain_deadline_s):
        if requests := shared.engines.cut(engine.name):
            LOG.warning('{"event": "moved", "engine": "%s", "requests": %d}', engine.name, requests)
            taken += requests
    return taken
