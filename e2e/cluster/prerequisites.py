"""Sees to it that the machine has what a hermetic cluster needs, or says in one sentence what is missing.

Installs only small packages of the machine's own distribution, and only as root with apt.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from e2e.cluster import commands, programs
from e2e.cluster.programs import MissingProgramError
from e2e.cluster.progress import Step

# Program -> Debian package that brings it. runc must be the machine's own: newer ones need a newer libc.
PACKAGES: Mapping[str, str] = {
    "runc": "runc",
    "gcc": "gcc",
    "ip": "iproute2",
    "iptables": "iptables",
    "openssl": "openssl",
    "gpgv": "gpgv",
    "xz": "xz-utils",
}
PLACES = ("/usr/sbin", "/sbin", "/usr/local/sbin")
STEP = Step(title="install small Debian packages", cold_s=15)


def missing() -> list[str]:
    """The needed programs that are not there."""
    return [name for name in PACKAGES if not _has(name)]


def require_root() -> None:
    if os.geteuid() != 0:
        raise MissingProgramError("a hermetic cluster needs root (it makes namespaces and mounts): run it with sudo")


def install() -> None:
    """Install what is missing; Go is the one thing that must already be there."""
    require_root()
    programs.require_go()
    wanted = [PACKAGES[name] for name in missing()]
    if not wanted:
        return
    if shutil.which("apt-get") is None:
        raise MissingProgramError(f"{', '.join(missing())} missing, and no apt-get to install: install them by hand")
    if "gcc" in wanted:
        wanted.append("libc6-dev")
    _apt("update")
    _apt("install", "--yes", "--no-install-recommends", *wanted)


def _apt(*arguments: str) -> None:
    try:
        commands.run(["apt-get", "-qq", *arguments], extra={"DEBIAN_FRONTEND": "noninteractive"})
    except commands.CommandError as problem:
        raise MissingProgramError(str(problem)) from None


def _has(name: str) -> bool:
    return shutil.which(name) is not None or any(os.access(Path(place) / name, os.X_OK) for place in PLACES)
