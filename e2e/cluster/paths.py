"""Where things are kept: one cache per user, one folder per version, and the state of what runs.

Only names are made here; no folder is created or removed.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from e2e.cluster import versions

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parents[1]


def cache() -> Path:
    """The project's cache folder (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llmservice"


def programs() -> Path:
    """Programs built from these versions and sums: kubectl, kube-apiserver, etcd, kind, helm, ..."""
    return cache() / "bin" / f"{versions.KUBERNETES}-{_programs_key()}"


@functools.cache
def _programs_key() -> str:
    """Another one as soon as a version or a module's sum changes. Go's own cache makes the new build short."""
    digest = hashlib.sha256()
    for file in (PACKAGE / "versions.py", *sorted((PACKAGE / "gomod").glob("*/go.*"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def debian() -> Path:
    """Unpacked Debian packages and the node's root file system."""
    return cache() / "debian" / f"{versions.DOCKER_SUITE}-{versions.NODE_SUITE}"


def engine_data() -> Path:
    """What the private docker engine keeps between runs: images, above all the node image."""
    return cache() / "docker"


def run_state(name: str) -> Path:
    """State of the running cluster `name`: pids, sockets, kubeconfig, logs."""
    return cache() / "run" / name
