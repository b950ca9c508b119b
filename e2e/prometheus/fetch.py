"""Prometheus and promtool as programs of this machine, taken from Debian and unpacked into the cache.

    python -m e2e.prometheus.fetch        print where prometheus is, fetching it first if it is missing

Never installs anything and never starts a server.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from e2e.cluster.lock import exclusively
from e2e.cluster.paths import cache
from e2e.images import debian

VERSION = "2.53"
SUITE = "trixie"
PACKAGES = ("prometheus", "promtool")
PROGRAMS = ("prometheus", "promtool")


def home() -> Path:
    """The folder that holds this version's programs."""
    return cache() / "prometheus" / VERSION


def binary() -> Path:
    """The prometheus program, fetched first when it is missing."""
    return _program("prometheus")


def promtool() -> Path:
    """The program that checks configurations and rules, fetched first when it is missing."""
    return _program("promtool")


def _program(name: str) -> Path:
    if not (home() / name).exists():
        _fetch()
    return home() / name


def _fetch() -> None:
    with exclusively(home(), "fetches Prometheus"):
        if not all((home() / name).exists() for name in PROGRAMS):
            _unpack(home() / "root")


def _unpack(root: Path) -> None:
    found = debian.version(SUITE, "prometheus")
    if not found.startswith(f"{VERSION}."):
        raise RuntimeError(f"Debian {SUITE} now has prometheus {found}; raise VERSION = {VERSION} in {__name__}")
    debian.unpack(debian.fetch(SUITE, PACKAGES), root)
    for name in PROGRAMS:
        (root / "usr" / "bin" / name).replace(home() / name)
    shutil.rmtree(root)


if __name__ == "__main__":
    print(binary())
