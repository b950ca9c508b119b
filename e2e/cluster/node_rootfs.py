"""Makes the root file system of a kind node out of Debian, kind's own files and our containerd.

Does what the Dockerfile of kind's base image does; kind's files are read from its Go module at build time. Works
in a scratch folder only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from e2e.cluster import debian, programs, versions

CONTAINERD_PROGRAMS = ("containerd", "ctr", "containerd-shim-runc-v2")
CNI_PLUGINS = ("host-local", "loopback", "ptp", "portmap")
ENABLED = ("kubelet", "containerd", "undo-mount-hacks")
UNWANTED = (
    "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    "lib/systemd/system/multi-user.target.wants/*",
    "lib/systemd/system/local-fs.target.wants/*",
    "lib/systemd/system/basic.target.wants/*",
    "lib/systemd/system/sockets.target.wants/*udev*",
    "lib/systemd/system/sockets.target.wants/*initctl*",
    "etc/systemd/system/*.wants/*",
)


def kind_source() -> Path:
    """kind's source in the Go module cache."""
    got = subprocess.run(
        ["go", "mod", "download", "-json", f"sigs.k8s.io/kind@{versions.KIND}"],
        cwd=programs.GO_MODULES,
        env={**os.environ, **programs.BUILD_ENV},
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(json.loads(got.stdout)["Dir"])


def build(root: Path, pause_image: str) -> None:
    """Fill the new folder `root`."""
    root.mkdir(parents=True)
    tar = ["tar", "--extract", f"--file={debian.node_tar()}", f"--directory={root}", "--exclude=./dev/*"]
    subprocess.run(tar, check=True, capture_output=True)
    _add_kind_files(root)
    _add_containerd(root, pause_image)
    _move_cni_plugins(root)
    _settle_services(root)
    (root / "etc" / "resolv.conf").unlink(missing_ok=True)
    (root / "etc" / "resolv.conf").touch()


def _add_kind_files(root: Path) -> None:
    files = kind_source() / "images" / "base" / "files"
    for source in sorted(path for path in files.rglob("*") if path.is_file()):
        place = source.relative_to(files)
        executable = place.parts[:2] in {("kind", "bin"), ("usr", "local")}
        _install(source, root / place, 0o755 if executable else 0o644)


def _add_containerd(root: Path, pause_image: str) -> None:
    for name in CONTAINERD_PROGRAMS:
        _install(programs.ours(name), root / "usr" / "local" / "bin" / name, 0o755)
    config = root / "etc" / "containerd" / "config.toml"
    config.write_text(re.sub(r'sandbox_image = ".*"', f'sandbox_image = "{pause_image}"', config.read_text()))
    (root / "etc" / "containerd" / "cri-base.json").write_text(json.dumps(_container_spec(), indent=2))


def _container_spec() -> dict[str, object]:
    """containerd's default container, changed as kind does."""
    made = subprocess.run([programs.ours("ctr"), "oci", "spec"], capture_output=True, text=True, check=True)
    spec: dict[str, object] = json.loads(made.stdout)
    spec["hooks"] = {"createContainer": [{"path": "/kind/bin/mount-product-files.sh"}]}
    process = spec["process"]
    assert isinstance(process, dict)
    process.pop("rlimits", None)
    return spec


def _move_cni_plugins(root: Path) -> None:
    target = root / "opt" / "cni" / "bin"
    target.mkdir(parents=True)
    for name in CNI_PLUGINS:
        shutil.move(root / "usr" / "lib" / "cni" / name, target / name)
    shutil.rmtree(root / "usr" / "lib" / "cni")


def _settle_services(root: Path) -> None:
    for pattern in UNWANTED:
        for path in root.glob(pattern):
            path.unlink()
    units = root / "etc" / "systemd" / "system"
    wants = units / "multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    for name in ENABLED:
        (wants / f"{name}.service").symlink_to(f"/etc/systemd/system/{name}.service")
    (units / "systemd-binfmt.service").symlink_to("/dev/null")  # it would register things for the whole machine
    with (root / "etc" / "systemd" / "journald.conf").open("a") as journald:
        journald.write("ReadKMsg=no\n")
    init = root / "usr" / "sbin" / "init"
    init.unlink(missing_ok=True)
    init.symlink_to("/usr/lib/systemd/systemd")
    (root / "etc" / "kubernetes" / "manifests").mkdir(parents=True, exist_ok=True)


def _install(source: Path, target: Path, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)
