"""Which folders of this machine the worker nodes see, read-only, under /host.

They let pods use programs and models that are too large for an image: a pod mounts /host/PATH by hostPath at PATH.
Pure but for looking at what exists; `/` as a whole is never mounted (it would carry docker's own mounts along).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import paths

PREFIX = Path("/host")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMount:
    """A folder of the machine and where a worker node has it."""

    source: Path

    @property
    def in_node(self) -> Path:
        return PREFIX / self.source.relative_to("/")


def host_mounts(pythons: Iterable[Path], shared: Iterable[Path]) -> list[HostMount]:
    """/usr, the Python installations that are not under it, and the `shared` folders; none inside another."""
    wanted = [Path("/usr"), *pythons, *shared]
    kept: list[Path] = []
    for folder in sorted({path.resolve() for path in wanted} - {Path("/")}, key=lambda path: len(path.parts)):
        if not any(folder.is_relative_to(outer) for outer in kept):
            kept.append(folder)
    return [HostMount(source=folder) for folder in sorted(kept)]


def default_mounts() -> list[HostMount]:
    """What our engine image needs; folders that are filled later are made now, so that they can be mounted."""
    for folder in shared_folders():
        folder.mkdir(parents=True, exist_ok=True)
    return host_mounts(python_installations(), shared_folders())


def shared_folders() -> list[Path]:
    """The engine environments and the models."""
    return [paths.cache() / "engine-env", paths.cache() / "models"]


def python_installations() -> list[Path]:
    """The one that runs us, and the one that each engine environment was made from."""
    return [Path(sys.base_prefix), *_homes_of_environments()]


def _homes_of_environments() -> Iterator[Path]:
    for settings in sorted((paths.cache() / "engine-env").glob("*/pyvenv.cfg")):
        for line in settings.read_text().splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "home":
                yield Path(value.strip()).parent
