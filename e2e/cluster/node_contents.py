"""The images that a node carries from birth: Kubernetes' own, its DNS, its network agent, its storage.

Each is a folder filled with our programs and the shared libraries they need; image names are asked of kubeadm and
read from kind's source, never written here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import debian, node_rootfs, paths, programs, versions
from e2e.cluster.archive import Image

CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
LIBRARIES = "usr/lib/x86_64-linux-gnu"
IPTABLES = [f"{family}tables{suffix}" for family in ("ip", "ip6") for suffix in ("", "-save", "-restore")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The image references that Kubernetes and kind will look for."""

    kubernetes: dict[str, str]  # short name -> reference, as kubeadm lists them
    kind: dict[str, str]  # short name -> reference, as kind's source has them

    @property
    def pause(self) -> str:
        return self.kubernetes["pause"]


def names() -> Names:
    """Ask kubeadm and kind; raises when our versions are not the ones that kubeadm wants."""
    command = [str(programs.ours("kubeadm")), "config", "images", "list"]
    command += ["--kubernetes-version", versions.KUBERNETES]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    kubernetes = {ref.rsplit("/", 1)[-1].split(":")[0]: ref for ref in listed}
    ours = {"etcd": versions.ETCD.removeprefix("v"), "coredns": versions.COREDNS, "pause": versions.PAUSE}
    for name, version in ours.items():
        if not kubernetes[name].split(":")[1].startswith(version):
            raise RuntimeError(
                f"Kubernetes wants {kubernetes[name]}, versions.py has {name} {version}: change it there"
            )
    return Names(kubernetes=kubernetes, kind=_kind_names())


def _kind_names() -> dict[str, str]:
    constants = (node_rootfs.kind_source() / "pkg" / "build" / "nodeimage").glob("const_*.go")
    text = "\n".join(path.read_text() for path in sorted(constants))
    return {name: ref for ref, name in re.findall(r"(docker\.io/kindest/([a-z-]+):[^\"`\s]+)", text)}


class Builder:
    """Fills image folders under `folder`, with libraries out of the node's root file system `rootfs`."""

    def __init__(self, folder: Path, rootfs: Path) -> None:
        self._folder = folder
        self._rootfs = rootfs
        self._busybox = debian.engine_root() / "usr" / "bin" / "busybox"

    def control_plane(self, name: str) -> Image:
        return Image(rootfs=self._with(name, {programs.ours(name): f"usr/local/bin/{name}"}))

    def etcd(self) -> Image:
        return Image(rootfs=self._with("etcd", {programs.ours("etcd"): "usr/local/bin/etcd"}))

    def coredns(self) -> Image:
        root = self._with("coredns", {programs.ours("coredns"): "coredns"})
        (root / "etc" / "ssl" / "certs").mkdir(parents=True)
        return Image(rootfs=root, entrypoint=("/coredns",))

    def pause(self) -> Image:
        root = self._with("pause", {})
        source = paths.PACKAGE / "node" / "pause.c"
        subprocess.run(["gcc", "-O2", "-static", "-s", "-o", root / "pause", source], check=True)
        return Image(rootfs=root, entrypoint=("/pause",))

    def kube_proxy(self) -> Image:
        """kube-proxy runs iptables: the programs, their modules, and every library of both."""
        root = self._with("kube-proxy", {programs.ours("kube-proxy"): "usr/local/bin/kube-proxy"})
        for name in ("lib", "lib64", "sbin"):
            (root / "usr" / name).mkdir(exist_ok=True)
            (root / name).symlink_to(f"usr/{name}")
        for name in ("tmp", "run"):
            (root / name).mkdir()
        for name in ("xtables-nft-multi", "nft"):
            shutil.copy2(self._rootfs / "usr" / "sbin" / name, root / "usr" / "sbin" / name)
        for name in IPTABLES:
            (root / "usr" / "sbin" / name).symlink_to("xtables-nft-multi")
        modules = self._rootfs / LIBRARIES / "xtables"
        shutil.copytree(modules, root / LIBRARIES / "xtables")
        users = ["/usr/sbin/xtables-nft-multi", "/usr/sbin/nft"]
        self._add_libraries(
            root, users + [f"/{LIBRARIES}/xtables/{path.name}" for path in sorted(modules.glob("*.so"))]
        )
        return Image(rootfs=root)

    def network_agent(self) -> Image:
        root = self._busybox_root("network", ("sh", "cat", "cp", "mv", "cmp", "sleep", "ip"))
        (root / "usr" / "bin").mkdir(parents=True)
        for name in ("curl", "jq"):
            shutil.copy2(self._rootfs / "usr" / "bin" / name, root / "usr" / "bin" / name)
        self._add_libraries(root, ["/usr/bin/curl", "/usr/bin/jq"])
        agent = root / "usr" / "bin" / "network-agent"
        shutil.copyfile(paths.PACKAGE / "node" / "network.sh", agent)
        agent.chmod(0o755)
        return Image(rootfs=root, entrypoint=("/usr/bin/network-agent",))

    def storage_provisioner(self) -> Image:
        program = {programs.ours("local-path-provisioner"): "usr/bin/local-path-provisioner"}
        return Image(rootfs=self._with("storage", program))

    def storage_helper(self) -> Image:
        return Image(rootfs=self._busybox_root("helper", ("sh", "mkdir", "rm")))

    def _busybox_root(self, name: str, applets: Iterable[str]) -> Path:
        root = self._with(name, {self._busybox: "bin/busybox"})
        (root / "tmp").mkdir()
        for applet in applets:
            (root / "bin" / applet).symlink_to("busybox")
        return root

    def _with(self, name: str, files: dict[Path, str]) -> Path:
        root = self._folder / name
        root.mkdir(parents=True)
        for source, place in files.items():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, root / place)
        return root

    def _add_libraries(self, root: Path, users: Sequence[str]) -> None:
        """Copy the shared libraries of `users` (paths in the node's root file system) to the same places."""
        listed = subprocess.run(
            ["chroot", self._rootfs, "ldd", *users], capture_output=True, text=True, check=False
        ).stdout
        for library in sorted(set(re.findall(r"(?:=> |^\s+)(/\S+)", listed, re.MULTILINE))):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self._rootfs / library.lstrip("/"), target)


def all_images(builder: Builder, wanted: Names) -> tuple[dict[str, Image], dict[str, Image]]:
    """The control plane's images, and all further ones (kube-proxy's first), by reference."""
    kubernetes, kind = wanted.kubernetes, wanted.kind
    own = {kubernetes[name]: builder.control_plane(name) for name in CONTROL_PLANE}
    further = {
        kubernetes["kube-proxy"]: builder.kube_proxy(),
        kubernetes["etcd"]: builder.etcd(),
        kubernetes["coredns"]: builder.coredns(),
        kubernetes["pause"]: builder.pause(),
        kind["kindnetd"]: builder.network_agent(),
        kind["local-path-provisioner"]: builder.storage_provisioner(),
        kind["local-path-helper"]: builder.storage_helper(),
    }
    return own, further
