"""NIXL connector for machines whose cores are few and shared. Changes nothing where there is a GPU.

Loaded by vLLM through `kv_connector_module_path`. On a CPU platform two defaults ruin it, both measured on two cores:
1. NIXL's progress thread spins (`pthrDelay` 0, hard-wired in its Python API): a core per engine, idle or not, and a
   first transfer of 20 s. With 500 microseconds: 2 to 3 % of a core, 1 s.
2. vLLM's NIXL worker pins itself to the machine's last core, the same one in every engine of the machine.
On a GPU machine spinning is the point (transfers of microseconds) and cores are many: there NixlConnector is vLLM's.
Never patches installed files; the change of (1) lives in this process only.
"""

from __future__ import annotations

import os
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.nixl import NixlPullConnector
from vllm.platforms import current_platform

PROGRESS_DELAY_US = 500


def _slow_down_progress_thread() -> None:
    """Wrap the agent configuration class, the only door through which NIXL's Python API sets the delay."""
    import nixl._api as api

    bindings = api.nixlBind

    class Calm(bindings.nixlAgentConfig):  # type: ignore[misc,name-defined]
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, PROGRESS_DELAY_US if name == "pthrDelay" else value)

    class Bindings:
        nixlAgentConfig = Calm  # noqa: N815

        def __getattr__(self, name: str) -> Any:
            return getattr(bindings, name)

    api.nixlBind = Bindings()


def _restore_affinity(cores: set[int]) -> None:
    """Undo the pinning for every thread that exists by now; one may end while we look."""
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(thread), cores)
        except ProcessLookupError:
            continue


if current_platform.is_cpu():
    _slow_down_progress_thread()

    class NixlConnector(NixlPullConnector):  # type: ignore[misc]
        """The name stays: vLLM treats connectors of this name specially."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            cores = os.sched_getaffinity(0)
            super().__init__(*args, **kwargs)
            _restore_affinity(cores)

else:

    class NixlConnector(NixlPullConnector):  # type: ignore[misc,no-redef]
        """vLLM's own, unchanged: see the module's text for why."""
