"""A bare control plane on 127.0.0.1 in about three seconds: etcd, API server, controllers, scheduler, fake nodes.

`with control_plane(folder, nodes=[Node(name="gpu-1", gpus=8)]) as cp:` for tests; for the shell
`python -m e2e.cluster bare up --dir DIR` and `... bare down --dir DIR` (bare_cli.py). No root, no namespaces, no
kubelet: pods only run as far as the fake nodes pretend. Several may run side by side, each in its own folder.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster import audit, bare_flags, certificates, commands, kube_api, processes, programs
from e2e.cluster.bare_flags import HOST, Layout
from e2e.cluster.fake_nodes import FakeNodes, Node
from e2e.cluster.processes import Process

READY_TIMEOUT_S = 60.0
POLL_S = 0.05
SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


@dataclass(slots=True, kw_only=True)
class ControlPlane:
    """A running control plane. All its files, logs included, lie in `layout.folder`."""

    layout: Layout
    tied: bool
    running: dict[str, Process] = field(default_factory=dict)
    fake: FakeNodes | None = None

    @property
    def kubeconfig(self) -> Path:
        return self.layout.kubeconfig

    @property
    def nodes(self) -> FakeNodes:
        """The fake nodes, to script what their pods do."""
        if self.fake is None:
            raise RuntimeError("this control plane was started without nodes")
        return self.fake

    def client(self) -> kube_api.Client:
        return kube_api.Client(kube_api.read_kubeconfig(self.kubeconfig))

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as administrator; a refusal is a CalledProcessError with kubectl's words in `stderr`."""
        command = [str(programs.find("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        return commands.run(command, stdin=stdin)

    def writes(self) -> list[audit.Write]:
        """Every write that reached the API server since the start, in order."""
        return audit.read(self.layout.audit_log)

    def start(self) -> None:
        self._run("etcd", bare_flags.etcd(self.layout))
        self._run("kube-apiserver", bare_flags.apiserver(self.layout))
        if self.layout.controllers:
            self._wait_for("/readyz")  # the helpers end when it takes longer than 10 s, as on a busy machine
            self._run("kube-controller-manager", bare_flags.controller_manager(self.layout))
            self._run("kube-scheduler", bare_flags.scheduler(self.layout))
        self.wait_ready()

    def stop(self) -> None:
        if self.fake is not None:
            self.fake.stop()
        for process in reversed(list(self.running.values())):
            processes.kill(process)  # nothing of it is kept, so nothing need be written in peace
        self.running.clear()

    def stop_apiserver(self) -> None:
        # Asked politely it first waits up to a minute for open watches.
        processes.stop(self.running.pop("kube-apiserver"), timeout_s=2)

    def start_apiserver(self) -> None:
        """Start it on the port it had, and wait until it is ready."""
        self._run("kube-apiserver", bare_flags.apiserver(self.layout))
        self.wait_ready()

    def restart_apiserver(self) -> None:
        self.stop_apiserver()
        self.start_apiserver()

    def wait_ready(self) -> None:
        """Until /readyz says ok and pods can be created in the namespace `default`."""
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._wait_for("/readyz", *([account] if self.layout.controllers else []))

    def _wait_for(self, *paths: str) -> None:
        client, deadline_s = self.client(), time.monotonic() + READY_TIMEOUT_S
        for path in paths:
            while not _answers(client, path):
                self._check_alive(deadline_s)

    def _run(self, name: str, arguments: Sequence[str]) -> None:
        log = self.layout.folder / f"{name}.log"
        command: list[str | Path] = [programs.find(name), *arguments]
        self.running[name] = processes.start(name, command, log=log, tied=self.tied)

    def _check_alive(self, deadline_s: float) -> None:
        for process in self.running.values():
            processes.check(process)
        if time.monotonic() > deadline_s:
            log = processes.log_tail(self.layout.folder / "kube-apiserver.log")
            raise TimeoutError(f"the control plane is not ready after {READY_TIMEOUT_S:.0f} s:\n{log}")
        time.sleep(POLL_S)


@contextmanager
def control_plane(
    folder: Path, *, nodes: Sequence[Node] = (), controllers: bool = True, start_s: float = 0.2
) -> Iterator[ControlPlane]:
    """A control plane that ends with the block; `start_s` is how long pods of the fake nodes take to start.

    Without `controllers` there is neither controller-manager nor scheduler: no Deployments, no garbage
    collection, no ServiceAccounts, and pods stay unbound.
    """
    plane = prepare(folder, controllers=controllers, tied=True)
    with ExitStack() as cleanup:
        cleanup.callback(plane.stop)
        plane.start()
        if nodes:
            plane.fake = FakeNodes(plane.client(), nodes, start_s=start_s)
            plane.fake.start()
        yield plane


def prepare(folder: Path, *, controllers: bool, tied: bool) -> ControlPlane:
    """Certificates, kubeconfigs and ports in `folder`; nothing is started yet."""
    programs.ensure(programs.BARE)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "etcd", ignore_errors=True)
    port, etcd_port = _free_ports(2)
    layout = Layout(folder=folder, port=port, etcd_port=etcd_port, controllers=controllers)
    layout.audit_log.unlink(missing_ok=True)
    _make_identities(layout)
    (folder / "audit-policy.json").write_text(json.dumps(audit.POLICY))
    return ControlPlane(layout=layout, tied=tied)


def _make_identities(layout: Layout) -> None:
    folder = layout.folder
    ca = certificates.authority(folder)
    certificates.server(folder, ca, names=SERVER_NAMES, addresses=(HOST, bare_flags.FIRST_SERVICE))
    certificates.signing_pair(folder)
    for path, user, group in (
        (layout.kubeconfig, "admin", "system:masters"),
        (folder / bare_flags.CONTROLLERS, "system:kube-controller-manager", None),
        (folder / bare_flags.SCHEDULER, "system:kube-scheduler", None),
    ):
        pair = certificates.client(folder, ca, user=user, group=group)
        address = kube_api.Address(
            host=HOST, port=layout.port, ca=ca.certificate, certificate=pair.certificate, key=pair.key
        )
        kube_api.write_kubeconfig(path, address, context="bare")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all are held until the last is found, so they differ."""
    listeners = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _answers(client: kube_api.Client, path: str) -> bool:
    try:
        return client.raw(path)[0] == 200
    except (OSError, http.client.HTTPException):
        return False
