"""Fetches Debian packages without installing them: the docker engine, and the root file system of a node.

Uses the mirror and the keys that this machine's apt is set up with. Everything lands in the cache, whole or not
at all; a part that is there is not fetched again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster import commands, paths, versions
from e2e.cluster.programs import MissingProgramError
from e2e.cluster.progress import Step

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ENGINE_PACKAGES = ("docker.io", "docker-cli", "containerd", "mmdebstrap", "busybox-static")
NODE_PACKAGES = (
    "systemd",
    "conntrack",
    "iptables",
    "nftables",
    "iproute2",
    "ethtool",
    "mount",
    "kmod",
    "libseccomp2",
    "pigz",
    "e2fsprogs",
    "ca-certificates",
    "curl",
    "jq",
    "procps",
    "socat",
    "runc",
    "containernetworking-plugins",
)
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
SCRATCH = ".part-"
ENGINE_STEP = Step(title="fetch the docker engine's Debian packages", cold_s=10)
NODE_STEP = Step(title="make a node's Debian root file system", cold_s=45)


def engine_root() -> Path:
    """The unpacked packages of the docker engine; its programs are under usr/bin and usr/sbin."""
    return paths.debian() / f"engine-{_key(*ENGINE_PACKAGES)}"


def node_tar() -> Path:
    """The root file system of a node, as a tar; another one when other packages are asked for."""
    return paths.debian() / f"node-{_key(*NODE_PACKAGES, *LEFT_OUT)}.tar"


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def search_path() -> str:
    """PATH with the engine's programs first."""
    places = [str(engine_root() / "usr" / "bin"), str(engine_root() / "usr" / "sbin"), os.environ["PATH"]]
    return ":".join([*places, "/usr/sbin", "/sbin"])


def has_engine() -> bool:
    return engine_root().is_dir()


def has_node() -> bool:
    return node_tar().is_file()


def fetch_engine() -> None:
    with _scratch() as scratch:
        apt = _private_apt(scratch, versions.DOCKER_SUITE)
        commands.run(["apt-get", "-qq", "update"], cwd=scratch, extra=apt)
        commands.run(["apt-get", "-qq", "download", *ENGINE_PACKAGES], cwd=scratch, extra=apt)
        for package in sorted(scratch.glob("*.deb")):
            commands.run(["dpkg-deb", "-x", package.name, "root"], cwd=scratch, extra=apt)
        os.replace(scratch / "root", engine_root())


def fetch_node() -> None:
    """Bootstrap a minimal Debian; needs root, and a mount namespace so that no mount can be left behind."""
    with _scratch() as scratch:
        command = ["unshare", "--mount", "--propagation", "private"]
        command += [str(engine_root() / "usr" / "bin" / "mmdebstrap"), "--mode=root", "--variant=minbase"]
        command += ["--format=tar", f"--keyring={KEYRING}", f"--include={','.join(NODE_PACKAGES)}"]
        command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
        command += ['--aptopt=APT::Sandbox::User "root"', versions.NODE_SUITE, "node.tar"]
        command += [f"deb {mirror()} {versions.NODE_SUITE} main"]
        commands.run(command, cwd=scratch, extra={"TMPDIR": str(scratch), "PATH": search_path()})
        os.replace(scratch / "node.tar", node_tar())


def mirror() -> str:
    """The Debian mirror that this machine uses (its first suite that is not an extra such as -security).

    Read from apt's sources alone: its lists are empty on many images until somebody runs `apt-get update`.
    """
    if not KEYRING.exists() or shutil.which("apt-get") is None:
        raise MissingProgramError("clusters and images are made of Debian packages: this machine has no Debian apt")
    ask = ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE)"]
    targets = commands.run([*ask, "Created-By: Packages", "Component: main"])
    listed = [line.split() for line in targets.splitlines()]
    found = [line[0] for line in listed if len(line) == 2 and not {"-", "/"} & set(line[1])]
    if not found:
        raise MissingProgramError("apt on this machine names no Debian mirror: see /etc/apt/sources.list.d")
    return found[0]


def _private_apt(folder: Path, suite: str) -> dict[str, str]:
    """An apt configuration that knows one suite and touches nothing of the machine's own."""
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    sources = folder / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
    }
    configuration = folder / "apt.conf"
    configuration.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    return {"APT_CONFIG": str(configuration)}


@contextmanager
def _scratch() -> Iterator[Path]:
    paths.debian().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.debian(), prefix=SCRATCH) as folder:
        yield Path(folder)
