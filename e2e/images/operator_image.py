"""The operator and router image: Python from Debian packages, hashed requirements, our wheel, nothing else.

It has no shell and no package manager; it runs as user 65532 under tini and writes nowhere but /tmp.
`operator/Dockerfile` makes the same on a public base image for people who reach a registry.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from e2e.cluster.archive import Image
from e2e.cluster.paths import REPOSITORY
from e2e.engine.env import uv
from e2e.images import accounts, debian, wheel
from e2e.images.recipe import RECIPES, Recipe, content_key, folder, one_at_a_time

SUITE = "bookworm"
PACKAGES = (
    "ca-certificates",
    "libbz2-1.0",
    "libc6",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "libuuid1",
    "media-types",
    "python3.11-minimal",
    "tini",
    "zlib1g",
)
REQUIREMENTS = REPOSITORY / "operator" / "requirements.txt"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
BASE_RECIPE = tuple(RECIPES / name for name in ("operator_image.py", "debian.py", "accounts.py", "wheel.py"))
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/lintian", "usr/share/locale", "usr/lib/x86_64-linux-gnu/gconv")


def recipe() -> Recipe:
    return Recipe(
        name="llmservice-operator",
        inputs=(REQUIREMENTS, *wheel.SOURCES),
        facts=(SUITE, *PACKAGES),
        fill=_fill,
    )


def _fill(rootfs: Path) -> Image:
    shutil.copytree(_base(), rootfs, symlinks=True, copy_function=os.link, dirs_exist_ok=True)
    wheel.unpack(rootfs / wheel.HOME)
    return Image(
        rootfs=rootfs,
        entrypoint=("/usr/bin/tini", "--"),
        command=("/usr/bin/python3.11", "-m", "llmservice_operator"),
        user=str(accounts.UID),
        workdir="/tmp",
        env={
            "PYTHONPATH": f"/{wheel.HOME}",
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "SSL_CERT_FILE": f"/{CERTIFICATES}",
        },
    )


def _base() -> Path:
    """All but our own code, unpacked once per list of packages and requirements."""
    key = content_key([REQUIREMENTS, *BASE_RECIPE], (SUITE, *PACKAGES))
    base = folder() / f"base-{key}"
    with one_at_a_time("base"):
        if not base.exists():
            part = base.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            _make_base(part)
            _forget_bases()
            part.rename(base)
    return base


def _forget_bases() -> None:
    for old in folder().glob("base-*[0-9a-f]"):
        shutil.rmtree(old)


def _make_base(base: Path) -> None:
    accounts.lay_out(base)
    debian.unpack(debian.fetch(SUITE, PACKAGES), base)
    for part in UNUSED:
        shutil.rmtree(base / part, ignore_errors=True)
    for name in ("python", "python3"):
        (base / "usr" / "bin" / name).symlink_to("python3.11")
    _bundle_certificates(base)
    _install_requirements(base / wheel.HOME)


def _bundle_certificates(base: Path) -> None:
    """What ca-certificates' own install script would write: every certificate of the package in one file."""
    parts = sorted((base / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    (base / CERTIFICATES).parent.mkdir(parents=True, exist_ok=True)
    (base / CERTIFICATES).write_text("".join(part.read_text() for part in parts))


def _install_requirements(target: Path) -> None:
    command = [uv(), "pip", "install", "-q", "--target", str(target), "--python-version", "3.11"]
    options = ["--link-mode", "copy", "--no-deps", "--require-hashes", "-r", str(REQUIREMENTS)]
    subprocess.run([*command, *options], check=True)
    shutil.rmtree(target / "bin")  # start scripts that name the Python of this machine
    wheel.compile_ahead(target)
