"""Makes the certificates of a bare control plane with the openssl program: one authority, a server, its clients.

For tests on this machine only: keys lie unencrypted in the folder that the caller names, valid for a year.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import commands

VALID_DAYS = 365
# The system's own openssl.cnf would add extensions a second time, and Go refuses a certificate with doubles.
CONFIGURATION = "[req]\ndistinguished_name = dn\n[dn]\n"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate and its private key."""

    certificate: Path
    key: Path


def authority(folder: Path) -> Pair:
    """A new certificate authority."""
    return _make(folder, "ca", "/CN=llmservice-bare-ca", ("basicConstraints=critical,CA:TRUE",), ())


def server(folder: Path, ca: Pair, *, names: Sequence[str], addresses: Sequence[str]) -> Pair:
    """A certificate for a server that is reached by these names and addresses."""
    alternatives = [f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses]
    return _issue(folder, ca, "server", "/CN=kube-apiserver", "serverAuth", f"subjectAltName={','.join(alternatives)}")


def client(folder: Path, ca: Pair, *, user: str, group: str | None = None) -> Pair:
    """A certificate that makes its holder `user` of `group` (Kubernetes: CN is the user, O the group)."""
    subject = f"/O={group}/CN={user}" if group else f"/CN={user}"
    return _issue(folder, ca, user.replace(":", "-"), subject, "clientAuth")


def signing_pair(folder: Path) -> Pair:
    """A key pair for ServiceAccount tokens; the certificate is the public half."""
    return _make(folder, "service-account", "/CN=service-accounts", (), ())


def _issue(folder: Path, ca: Pair, name: str, subject: str, usage: str, *extensions: str) -> Pair:
    signer = ("-CA", str(ca.certificate), "-CAkey", str(ca.key))
    return _make(folder, name, subject, ("basicConstraints=CA:FALSE", f"extendedKeyUsage={usage}", *extensions), signer)


def _make(folder: Path, name: str, subject: str, extensions: Sequence[str], signer: Sequence[str]) -> Pair:
    pair = Pair(certificate=folder / f"{name}.crt", key=folder / f"{name}.key")
    command = [
        "openssl",
        "req",
        "-x509",
        "-config",
        "/dev/stdin",
        *NEW_KEY,
        "-days",
        str(VALID_DAYS),
        "-subj",
        subject,
        *signer,
    ]
    command += ["-keyout", str(pair.key), "-out", str(pair.certificate)]
    for extension in extensions:
        command += ["-addext", extension]
    commands.run(command, stdin=CONFIGURATION)
    return pair
