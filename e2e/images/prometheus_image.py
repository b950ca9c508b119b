"""The Prometheus image for the cluster: Debian's program and its libc, without consoles or plugins."""

from __future__ import annotations

import shutil
from pathlib import Path

from e2e.cluster.archive import Image
from e2e.images import accounts, debian
from e2e.images.recipe import Recipe
from e2e.prometheus import fetch

LIBRARIES = ("libc6",)


def recipe() -> Recipe:
    return Recipe(name="prometheus", version=fetch.VERSION, inputs=(), facts=(fetch.SUITE, *LIBRARIES), fill=_fill)


def _fill(rootfs: Path) -> Image:
    accounts.lay_out(rootfs)
    debian.unpack(debian.fetch(fetch.SUITE, LIBRARIES), rootfs)
    for part in ("doc", "lintian", "locale"):
        shutil.rmtree(rootfs / "usr" / "share" / part, ignore_errors=True)
    shutil.copy2(fetch.binary(), rootfs / "usr" / "bin" / "prometheus")
    return Image(rootfs=rootfs, entrypoint=("/usr/bin/prometheus",), user=str(accounts.UID), workdir="/tmp")
