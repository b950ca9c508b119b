"""Writes container images as docker archives, from plain folders and without any container tool.

One layer per image, reproducible bytes: the same folders give the same archive. It never pulls, pushes or
runs an image; `kind load image-archive` (or `docker load`) takes what is written here.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EPOCH = "1970-01-01T00:00:00Z"
COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What one image holds: a folder that becomes `/`, and how its process starts.

    Every file belongs to root in the image, whoever owns it here; modes are kept as they are.
    """

    rootfs: Path
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A packed root file system: where its tar lies and the hash that names it."""

    path: Path
    sha256: str


def write_archive(out: Path, images: Mapping[str, Image]) -> None:
    """Write `images` (reference with tag -> image) to `out`, whole or not at all."""
    with _scratch_beside(out) as scratch:
        layers = {ref: _pack(image.rootfs, scratch) for ref, image in images.items()}
        configs = {ref: _config(image, layers[ref]) for ref, image in images.items()}
        part = scratch / "archive.tar"
        with tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as archive:
            # `repositories` comes first: kind's `build node-image` reads only the first entry of
            # manifest.json, but all of `repositories`.
            _add_bytes(archive, "repositories", _json(_repositories(layers)))
            _add_bytes(archive, "manifest.json", _json(_manifest(layers, configs)))
            _add_blobs(archive, layers, configs)
        os.replace(part, out)


@contextmanager
def _scratch_beside(out: Path) -> Iterator[Path]:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        yield Path(folder)


def _pack(rootfs: Path, scratch: Path) -> Layer:
    if not rootfs.is_dir():
        raise NotADirectoryError(f"no root file system at {rootfs}")
    handle, name = tempfile.mkstemp(dir=scratch, suffix=".layer")
    with os.fdopen(handle, "w+b") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as layer:
            layer.add(rootfs, arcname=".", filter=_without_origin)
        file.seek(0)
        return Layer(path=Path(name), sha256=_sha256(file))


def _without_origin(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Forget who made the file and when, so that the same content gives the same bytes."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mtime = 0
    return entry


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(COPY_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _config(image: Image, layer: Layer) -> bytes:
    """The image's configuration, in the form of Docker Image Specification v1.2."""
    env = {"PATH": SEARCH_PATH, **image.env}
    run = {
        "Cmd": list(image.command) or None,
        "Entrypoint": list(image.entrypoint) or None,
        "Env": [f"{name}={value}" for name, value in env.items()],
        "Labels": dict(image.labels) or None,
        "User": image.user,
        "WorkingDir": image.workdir,
    }
    return _json(
        {
            "architecture": "amd64",
            "config": run,
            "created": EPOCH,
            "history": [{"created": EPOCH}],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.sha256}"]},
        }
    )


def _repositories(layers: Mapping[str, Layer]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for ref, layer in layers.items():
        name, tag = ref.rsplit(":", 1)
        found.setdefault(name, {})[tag] = layer.sha256
    return found


def _manifest(layers: Mapping[str, Layer], configs: Mapping[str, bytes]) -> list[dict[str, object]]:
    return [
        {"Config": _config_name(configs[ref]), "Layers": [_layer_name(layer)], "RepoTags": [ref]}
        for ref, layer in layers.items()
    ]


def _add_blobs(archive: tarfile.TarFile, layers: Mapping[str, Layer], configs: Mapping[str, bytes]) -> None:
    for name, content in sorted({_config_name(content): content for content in configs.values()}.items()):
        _add_bytes(archive, name, content)
    for name, path in sorted({_layer_name(layer): layer.path for layer in layers.values()}.items()):
        archive.add(path, arcname=name, filter=_as_blob)


def _as_blob(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mode = 0o644
    return _without_origin(entry)


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _config_name(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()}.json"


def _layer_name(layer: Layer) -> str:
    return f"{layer.sha256}.tar"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
