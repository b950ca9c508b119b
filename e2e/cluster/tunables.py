"""The kernel settings that a kubelet overwrites for the whole machine: read before, put back after.

The list is kubelet's own (setupKernelTunables in pkg/kubelet/cm); nothing else of the kernel is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

NAMES = (
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
)


def read() -> dict[str, str]:
    """The settings as they are now."""
    return {name: _file(name).read_text().strip() for name in NAMES if _file(name).exists()}


def restore(settings: Mapping[str, str]) -> None:
    """Put back what differs."""
    for name, value in settings.items():
        if _file(name).read_text().strip() != value:
            _file(name).write_text(value)


def _file(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")
