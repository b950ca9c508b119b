"""Assembles kind's node image without any registry and keeps it in the enclosure's docker engine.

Base image and Kubernetes' server archive are made from Debian packages and Go programs; kind's own offline
`build node-image` joins them. The tag carries a hash of everything that decides the content.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from e2e.cluster import commands, debian, enclosure, node_contents, node_rootfs, paths, programs, versions
from e2e.cluster.archive import write_archive
from e2e.cluster.progress import Step

REPOSITORY = "localhost/kind-node"
SCRATCH = "image-"
BASE = "localhost/kind-base:1"
SOURCES = ("node_image.py", "node_rootfs.py", "node_contents.py", "archive.py", "node/network.sh", "node/pause.c")
STEP = Step(title="assemble the node image", cold_s=75)
SETTINGS = ("ENV container=docker", "STOPSIGNAL SIGRTMIN+3", 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]')
NODE_PROGRAMS = ("kubeadm", "kubectl", "kubelet")


@functools.cache
def reference() -> str:
    """The image's name; another one as soon as anything that goes into it changes."""
    digest = hashlib.sha256(f"{debian.node_tar().name} {paths.programs().name}".encode())
    for name in SOURCES:
        digest.update((paths.PACKAGE / name).read_bytes())
    return f"{REPOSITORY}:{versions.KUBERNETES}-{digest.hexdigest()[:10]}"


def expected() -> bool:
    """Whether the engine holds the image, as far as can be told while the engine is down."""
    marker = _marker()
    return marker.exists() and marker.read_text() == reference()


def ensure() -> None:
    """Build it unless the running engine holds it; earlier ones are removed then."""
    held = enclosure.run(["docker", "images", REPOSITORY, "--format", "{{.Repository}}:{{.Tag}}"]).split()
    if reference() not in held:
        _build()
        for earlier in held:
            enclosure.run(["docker", "rmi", "--force", earlier])
    _marker().write_text(reference())


def _marker() -> Path:
    return paths.engine_data() / "node-image"


def _build() -> None:
    with tempfile.TemporaryDirectory(dir=paths.engine_data(), prefix=SCRATCH) as folder:
        scratch = Path(folder)
        names = node_contents.names()
        node_rootfs.build(scratch / "rootfs", names.pause)
        _import_base(scratch / "rootfs")
        server = _server_archive(scratch, names)
        shutil.rmtree(scratch / "rootfs")
        build = ["kind", "build", "node-image", "--type", "file", "--base-image", BASE, "--image", reference()]
        enclosure.run([*build, str(server)])
        enclosure.run(["docker", "rmi", BASE])


def _import_base(rootfs: Path) -> None:
    packing = subprocess.Popen(["tar", "--directory", rootfs, "--create", "."], stdout=subprocess.PIPE)
    assert packing.stdout is not None
    changes = [part for setting in SETTINGS for part in ("--change", setting)]
    loading = subprocess.run(
        enclosure.command(["docker", "import", *changes, "-", BASE]),
        stdin=packing.stdout,
        env=enclosure.environment(),
        capture_output=True,
        check=False,
    )
    packing.stdout.close()
    if packing.wait() != 0 or loading.returncode != 0:
        raise commands.CommandError(loading.returncode, loading.args, None, loading.stderr.decode())


def _server_archive(scratch: Path, names: node_contents.Names) -> Path:
    """What Kubernetes publishes as kubernetes-server-linux-amd64.tar.gz, as far as kind reads it."""
    top = scratch / "kubernetes"
    target = top / "server" / "bin"
    target.mkdir(parents=True)
    (top / "version").write_text(versions.KUBERNETES)
    own, further = node_contents.all_images(node_contents.Builder(scratch / "images", scratch / "rootfs"), names)
    for name in node_contents.CONTROL_PLANE:
        reference_of = names.kubernetes[name]
        write_archive(target / f"{name}.tar", {reference_of: own[reference_of]})
    # kind imports every image of this archive: so all further ones travel in it, and kind pulls nothing.
    write_archive(target / "kube-proxy.tar", further)
    for name in NODE_PROGRAMS:
        shutil.copy2(programs.ours(name), target / name)
    out = scratch / "server.tar.gz"
    with tarfile.open(out, "w:gz", compresslevel=0) as archive:  # read once, a moment later
        archive.add(top, arcname="kubernetes")
    return out
