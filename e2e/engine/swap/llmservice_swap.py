"""pytest plugin for vLLM's scheduler tests: they build our class instead. LLMSERVICE_SWAP=stock|plain|slai.

`plain` leaves the order of the waiting queue to vLLM; `slai` is the class as it is.
"""

from __future__ import annotations

import os
from typing import Any


def pytest_configure(config: Any) -> None:
    mode = os.environ["LLMSERVICE_SWAP"]
    if mode == "stock":
        return
    from tests.v1.core import utils

    from llmservice_serving import vllm_scheduler

    vllm_scheduler.SLAI.order_waiting = mode == "slai"
    utils.Scheduler, utils.AsyncScheduler = vllm_scheduler.SLAI, vllm_scheduler._AsyncSLAI
