"""What the tests of the cluster room share: the cluster that is up, an image of ours on its nodes, a namespace."""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import cluster, debian, enclosure
from e2e.cluster.archive import Image, write_archive
from e2e.cluster.cluster import Cluster, NoClusterError

TOOLS = ("cat", "hostname", "httpd", "ls", "mkdir", "nslookup", "sh", "sleep", "tail", "touch", "wget")
IMAGE = "localhost/llmservice-check:1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that takes the cluster down cannot run inside of it (`exec`): it is left to a run of its own."""
    if not enclosure.contains_us():
        return
    impossible = [item for item in items if item.get_closest_marker("teardown")]
    if impossible:
        items[:] = [item for item in items if item not in impossible]
        config.hook.pytest_deselected(items=impossible)


@dataclass(frozen=True)
class Room:
    """A namespace of our own in the cluster."""

    cluster: Cluster
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def apply(self, *manifests: dict[str, Any]) -> None:
        everything = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(everything))

    def get(self, *arguments: str) -> Any:
        return self.cluster.get("-n", self.namespace, *arguments)

    def wait_ready(self, what: str) -> None:
        self.kubectl("wait", "--for=condition=Ready", what, "--timeout=90s")


def until(holds: Callable[[], bool], patience_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.3)


@pytest.fixture(scope="session")
def kind() -> Cluster:
    """The cluster that is up; without one the tests are skipped, or fail where every tier is required."""
    try:
        return cluster.current()
    except NoClusterError as problem:
        if os.environ.get("LLMSERVICE_REQUIRE_ALL"):
            raise
        pytest.skip(str(problem))


@pytest.fixture(scope="session")
def image(kind: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with a few tools, made without a registry and brought to every node."""
    folder = tmp_path_factory.mktemp("image")
    archive = folder / "check.tar"
    write_archive(archive, {IMAGE: Image(rootfs=tools(folder / "rootfs"), user="0")})
    kind.load_image(archive)
    return IMAGE


def tools(root: Path) -> Path:
    for place in ("bin", "etc", "tmp", "www"):
        (root / place).mkdir(parents=True)
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n")
    if not debian.has_engine():  # a cluster on the machine's own docker engine did without
        debian.fetch_engine()
    busybox = root / "bin" / "busybox"
    busybox.write_bytes((debian.engine_root() / "usr" / "bin" / "busybox").read_bytes())
    busybox.chmod(0o755)
    for name in TOOLS:
        (root / "bin" / name).symlink_to("busybox")
    return root


@pytest.fixture(scope="module")
def room(kind: Cluster, image: str) -> Iterator[Room]:
    namespace = f"check-{uuid.uuid4().hex[:6]}"
    kind.kubectl("create", "namespace", namespace)
    found = Room(kind, namespace)
    account = "serviceaccount/default"
    kind.kubectl("-n", namespace, "wait", "--for=create", account, "--timeout=30s")
    yield found
    kind.kubectl("delete", "namespace", namespace, "--wait=false")
