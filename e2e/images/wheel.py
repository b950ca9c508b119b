"""Our own packages for an image: the wheel that users would install, unpacked into a folder.

The wheel is built by the project's own build backend, so an image holds what a release would hold. Byte code is
compiled ahead (PEP 552, unchecked hashes): a pod with a read-only root could never store it.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from e2e.cluster.paths import REPOSITORY

SOURCES = (
    REPOSITORY / "pyproject.toml",
    *sorted((REPOSITORY / "operator").glob("llmservice_*")),
    *sorted((REPOSITORY / "serving").glob("llmservice_*")),
)
HOME = Path("opt/llmservice")
"""Where our packages lie in every image of ours, relative to its root; images put it on PYTHONPATH."""


def unpack(target: Path) -> None:
    """Build the wheel of this checkout and lay its files into `target`, compiled."""
    with tempfile.TemporaryDirectory() as scratch:
        packages = Path(scratch) / "packages"
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
        )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as content:
            content.extractall(packages)
        compile_ahead(packages)
        shutil.copytree(packages, target, dirs_exist_ok=True)


def compile_ahead(folder: Path) -> None:
    """Byte code for all modules below `folder` that have none, naming them by their path in the image."""
    if sys.version_info[:2] != (3, 11):
        raise RuntimeError(f"images run Python 3.11, this is {sys.version.split()[0]}: its byte code would not fit")
    compileall.compile_dir(
        str(folder),
        quiet=2,
        stripdir=str(folder),
        prependdir=f"/{HOME}",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
