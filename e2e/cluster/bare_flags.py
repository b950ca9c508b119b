"""The command lines of a bare control plane's programs; pure: a layout in, arguments out.

The choice follows controller-runtime's envtest where it has one (loopback only, no secure ports of the helpers).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Kubeconfigs of the helpers, beside the administrator's.
CONTROLLERS = "controllers.kubeconfig"
SCHEDULER = "scheduler.kubeconfig"
HOST = "127.0.0.1"
SERVICE_RANGE = "10.96.0.0/16"
FIRST_SERVICE = "10.96.0.1"
# Clients in tests should not wait for the helpers' own brakes when there are a thousand services.
UNHURRIED = ["--kube-api-qps=200", "--kube-api-burst=400"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where one control plane keeps its files and listens."""

    folder: Path
    port: int
    etcd_port: int
    controllers: bool

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit.log"


def etcd(plane: Layout) -> list[str]:
    url = f"http://{HOST}:{plane.etcd_port}"
    # A peer is never connected: port 0 lets the kernel choose one.
    return [
        f"--data-dir={plane.folder / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls=http://{HOST}:0",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver(plane: Layout) -> list[str]:
    folder = plane.folder
    arguments = [
        f"--etcd-servers=http://{HOST}:{plane.etcd_port}",
        f"--bind-address={HOST}",
        f"--advertise-address={HOST}",
        f"--secure-port={plane.port}",
        "--endpoint-reconciler-type=none",  # a loopback address may not be published
        f"--tls-cert-file={folder / 'server.crt'}",
        f"--tls-private-key-file={folder / 'server.key'}",
        f"--client-ca-file={folder / 'ca.crt'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / 'service-account.crt'}",
        f"--service-account-signing-key-file={folder / 'service-account.key'}",
        "--allow-privileged=true",
        "--shutdown-delay-duration=0s",
        f"--audit-policy-file={folder / 'audit-policy.json'}",
        f"--audit-log-path={plane.audit_log}",
        "--audit-log-mode=blocking",
    ]
    return arguments if plane.controllers else [*arguments, "--disable-admission-plugins=ServiceAccount"]


def controller_manager(plane: Layout) -> list[str]:
    folder = plane.folder
    return [
        f"--kubeconfig={folder / CONTROLLERS}",
        "--secure-port=0",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={folder / 'service-account.key'}",
        f"--root-ca-file={folder / 'ca.crt'}",
        f"--cluster-signing-cert-file={folder / 'ca.crt'}",
        f"--cluster-signing-key-file={folder / 'ca.key'}",
        "--concurrent-deployment-syncs=5",
        *UNHURRIED,
    ]


def scheduler(plane: Layout) -> list[str]:
    return [
        f"--kubeconfig={plane.folder / SCHEDULER}",
        "--secure-port=0",
        "--leader-elect=false",
        *UNHURRIED,
    ]
