"""An image as a recipe: what it is made of, and the cache that builds it once per content.

The tag is a hash of the inputs, so a changed file gives another tag, a rollout follows by itself, and an unchanged
recipe costs only the hashing. Never talks to a registry.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import archive
from e2e.cluster.paths import PACKAGE, REPOSITORY, cache

REGISTRY = "localhost"  # a name that no runtime takes for Docker Hub; nothing is ever pulled from it
KEY_DIGITS = 12
KEEP_ARCHIVES = 3
RECIPES = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one image is made. `fill` lays the files into an empty folder and says how the process starts."""

    name: str
    version: str = ""
    inputs: tuple[Path, ...]
    facts: tuple[str, ...] = ()
    fill: Callable[[Path], archive.Image]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An image on disk: the reference pods use, and the docker archive that brings it to the nodes."""

    reference: str
    archive: Path
    seconds: float

    @property
    def megabytes(self) -> float:
        return self.archive.stat().st_size / 1e6


def folder() -> Path:
    """Where archives and unpacked bases are kept."""
    return cache() / "images"


def reference(recipe: Recipe) -> str:
    """`localhost/NAME:TAG` for the inputs as they are now."""
    key = content_key([*recipe.inputs, RECIPES, PACKAGE / "archive.py"], recipe.facts)
    return f"{REGISTRY}/{recipe.name}:{'-'.join(filter(None, (recipe.version, key)))}"


def build(recipe: Recipe) -> Built:
    """The image for the inputs as they are now; made only when no archive of this content exists."""
    started = time.monotonic()
    name = reference(recipe)
    out = folder() / f"{name.partition('/')[2].replace(':', '_')}.tar"
    with one_at_a_time(recipe.name):
        if not out.exists():
            _write(recipe, name, out)
        os.utime(out)
        _prune(recipe.name)
    return Built(reference=name, archive=out, seconds=time.monotonic() - started)


def _write(recipe: Recipe, name: str, out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder(), prefix=f".{recipe.name}.") as scratch:
        rootfs = Path(scratch) / "rootfs"
        rootfs.mkdir()
        archive.write_archive(out, {name: recipe.fill(rootfs)})


def _prune(name: str) -> None:
    """Keep the newest few archives of `name`: an image of ours changes with every edit of the code."""
    found = sorted(folder().glob(f"{name}_*.tar"), key=lambda path: path.stat().st_mtime)
    for old in found[:-KEEP_ARCHIVES]:
        old.unlink()


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Hold `name` so that two builds at the same time do the work once."""
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / f".{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def content_key(inputs: Iterable[Path], facts: Iterable[str]) -> str:
    """A short hash of the contents and names of `inputs` (files, or folders with all below) and of `facts`."""
    digest = hashlib.sha256("\n".join(facts).encode())
    for path in inputs:
        for file in _files(path):
            digest.update(f"\n{_name(file)}\n".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:KEY_DIGITS]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


def _name(file: Path) -> str:
    """Relative inside the checkout: where a checkout lies does not change an image."""
    return str(file.relative_to(REPOSITORY)) if file.is_relative_to(REPOSITORY) else file.name
