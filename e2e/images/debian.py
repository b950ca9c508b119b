"""Debian packages, fetched and unpacked without being installed.

A private apt configuration reads one suite from the mirror that this machine's own apt names, so no host name is
written anywhere and apt checks every signature. Nothing of the machine's package state is read or changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster.debian import KEYRING, mirror
from e2e.cluster.lock import exclusively
from e2e.cluster.paths import cache

INDEX_FRESH_S = 24 * 3600.0
CONFIGURATION = """\
Dir::Etc::sourcelist "{home}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "{home}/lists";
Dir::State::status "{home}/status";
Dir::Cache "{home}/cache";
APT::Sandbox::User "root";
"""


def fetch(suite: str, packages: Sequence[str]) -> list[Path]:
    """The .deb files of exactly `packages` (dependencies are the caller's list), newest of `suite`."""
    with _private_apt(suite) as (apt, home):
        fresh = home / "fetch"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        _run("apt-get", "-qq", "download", *packages, apt=apt, cwd=fresh)
        return [_keep(deb, home / "deb") for deb in sorted(fresh.glob("*.deb"))]


def version(suite: str, package: str) -> str:
    """The upstream version of `package` in `suite`: `2.53.3+ds1-2` gives `2.53.3`."""
    with _private_apt(suite) as (apt, _):
        text = _run("apt-cache", "show", "--no-all-versions", package, apt=apt)
    full = next(line.split()[1] for line in text.splitlines() if line.startswith("Version:"))
    return full.rpartition(":")[2].split("+")[0].split("-")[0]


def unpack(debs: Sequence[Path], target: Path) -> None:
    """Lay the files of `debs` into `target`; maintainer scripts do not run."""
    target.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        content = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], check=True, capture_output=True).stdout
        # Not `dpkg-deb -x`: it would turn the links /lib -> usr/lib of a merged root into folders.
        subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", str(target)], input=content, check=True)


@contextmanager
def _private_apt(suite: str) -> Iterator[tuple[Path, Path]]:
    """One user at a time: apt's configuration file for `suite` with an index younger than a day, and its folder."""
    home = cache() / "apt" / suite
    for folder in ("lists/partial", "cache/archives/partial", "deb"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    with exclusively(home, "fetches Debian packages"):
        configuration = _configure(home, suite)
        _refresh(home, configuration)
        yield configuration, home


def _configure(home: Path, suite: str) -> Path:
    (home / "status").touch()
    (home / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
    configuration = home / "apt.conf"
    configuration.write_text(CONFIGURATION.format(home=home))
    return configuration


def _refresh(home: Path, configuration: Path) -> None:
    stamp = home / ".updated"
    if not stamp.exists() or time.time() - stamp.stat().st_mtime > INDEX_FRESH_S:
        _run("apt-get", "-qq", "update", apt=configuration)
        stamp.touch()


def _keep(deb: Path, folder: Path) -> Path:
    kept = folder / deb.name
    deb.replace(kept)
    return kept


def _run(*command: str, apt: Path, cwd: Path | None = None) -> str:
    environment = {**os.environ, "APT_CONFIG": str(apt)}
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout
