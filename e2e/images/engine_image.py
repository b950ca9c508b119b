"""The engine image for clusters on this machine: empty folders and our own wheel, nothing of vLLM.

The environment with torch is 6 GB, too much to carry into nodes. So a pod mounts it, the Python behind it and the
machine's /usr read-only from the node (engine_template.py), and the image brings only what must be ours: the code
under test. For users `serving/Dockerfile` adds the same wheel to a vLLM image.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from e2e.cluster.archive import Image
from e2e.images import accounts, wheel
from e2e.images.recipe import Recipe

LOADER_CACHE = Path("/etc/ld.so.cache")


def recipe() -> Recipe:
    return Recipe(name="llmservice-engine", inputs=(LOADER_CACHE, *wheel.SOURCES), fill=_fill)


def _fill(rootfs: Path) -> Image:
    accounts.lay_out(rootfs)
    shutil.copy2(LOADER_CACHE, rootfs / "etc" / LOADER_CACHE.name)  # it belongs to the /usr that will be mounted
    wheel.unpack(rootfs / wheel.HOME)
    return Image(rootfs=rootfs, user=str(accounts.UID), workdir="/tmp", env={"PYTHONPATH": f"/{wheel.HOME}"})
