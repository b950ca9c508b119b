"""A very small client of the Kubernetes API: JSON over one kept connection per thread, and watches.

For the harness itself (fake nodes, readiness), so that it needs nothing but the standard library. It reads only
kubeconfigs that this package wrote (JSON with paths) and never retries a write.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
TIMEOUT_S = 15.0
WATCH_S = 120
GONE = 410
NOT_FOUND = 404
CONFLICT = 409

Manifest = dict[str, Any]


class ApiError(RuntimeError):
    """The API server answered with an error; `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an API server listens and how to be believed there."""

    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path


def write_kubeconfig(path: Path, address: Address, *, context: str) -> Path:
    """A kubeconfig with one context; JSON is YAML, so every client reads it."""
    cluster = {
        "server": f"https://{address.host}:{address.port}",
        "certificate-authority": str(address.ca),
    }
    user = {"client-certificate": str(address.certificate), "client-key": str(address.key)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": cluster}],
        "users": [{"name": context, "user": user}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
    }
    path.write_text(json.dumps(config, indent=2) + "\n")
    return path


def read_kubeconfig(path: Path) -> Address:
    """The address in a kubeconfig that `write_kubeconfig` wrote."""
    config = json.loads(path.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    url = urllib.parse.urlsplit(cluster["server"])
    return Address(
        host=url.hostname or "",
        port=url.port or 443,
        ca=Path(cluster["certificate-authority"]),
        certificate=Path(user["client-certificate"]),
        key=Path(user["client-key"]),
    )


class Client:
    """Talks to one API server; may be used from several threads."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._tls = ssl.create_default_context(cafile=str(address.ca))
        self._tls.load_cert_chain(address.certificate, address.key)
        self._local = threading.local()

    def get(self, path: str, **query: str) -> Manifest:
        return self._json("GET", path, query=query)

    def create(self, path: str, body: Manifest) -> Manifest:
        return self._json("POST", path, body=body)

    def patch(self, path: str, body: object, kind: str = MERGE) -> Manifest:
        return self._json("PATCH", path, body=body, content=kind)

    def delete(self, path: str, body: Manifest | None = None) -> Manifest:
        return self._json("DELETE", path, body=body)

    def raw(self, path: str) -> tuple[int, str]:
        """Status and text of a plain GET, for health endpoints."""
        status, payload = self._exchange("GET", path, None, JSON)
        return status, payload.decode(errors="replace")

    def watch(self, path: str, version: str, **query: str) -> Iterator[Manifest]:
        """Events from `version` on, until the server closes the stream; raises ApiError(410) when too old."""
        asked = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
            "resourceVersion": version,
        }
        connection = self._connect(TIMEOUT_S + WATCH_S)
        try:
            connection.request("GET", f"{path}?{urllib.parse.urlencode({**asked, **query})}")
            response = connection.getresponse()
            if response.status != 200:
                raise ApiError(response.status, _message(response.read()))
            while line := response.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(event["object"].get("code", GONE), event["object"].get("message", ""))
                yield event
        finally:
            connection.close()

    def _json(
        self,
        verb: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content: str = JSON,
    ) -> Manifest:
        target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
        payload = None if body is None else json.dumps(body).encode()
        status, answer = self._exchange(verb, target, payload, content)
        if status >= 400:
            raise ApiError(status, _message(answer))
        parsed: Manifest = json.loads(answer)
        return parsed

    def _exchange(self, verb: str, target: str, payload: bytes | None, content: str) -> tuple[int, bytes]:
        connection = self._kept()
        try:
            connection.request(verb, target, body=payload, headers={"Content-Type": content, "Accept": JSON})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            self._local.connection = None
            raise

    def _kept(self) -> http.client.HTTPSConnection:
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect(TIMEOUT_S)
        return connection

    def _connect(self, timeout_s: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._address.host, self._address.port, timeout=timeout_s, context=self._tls)


def _message(payload: bytes) -> str:
    try:
        return str(json.loads(payload)["message"])
    except (ValueError, KeyError, TypeError):
        return payload.decode(errors="replace")[:300]
