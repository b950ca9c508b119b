"""A thin client of the Kubernetes API: list and watch one kind of object, for as long as the process lives.

It only reads. Credentials: the pod's ServiceAccount, else a kubeconfig with certificates or a token (no exec plugins).
The official client is not used here: it costs tens of MiB and a second of start-up for two watches.
"""

import asyncio
import base64
import json
import logging
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

LOG = logging.getLogger("llmservice.router.kube")
POD_SECRETS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
WATCH_S = 50
"""Short watches: a connection that died without a word is noticed within READ_S."""
READ_S = 60.0
LIST_S = 10.0
BACKOFF_S = (0.1, 5.0)
GONE = 410

Object = dict[str, Any]


class ApiError(Exception):
    def __init__(self, code: int, message: str):
        super().__init__(f"{code} {message}")
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the API server is and how to be believed there. A token file is read for each request: it rotates."""

    server: str
    tls: ssl.SSLContext | None
    token: str | None = None
    token_file: Path | None = None

    def headers(self) -> dict[str, str]:
        token = self.token_file.read_text().strip() if self.token_file else self.token
        return {"Authorization": f"Bearer {token}"} if token else {}


def find_access(kubeconfig: str = "", context: str = "", environ: Mapping[str, str] = os.environ) -> Access:
    """A named kubeconfig, else the pod's ServiceAccount, else KUBECONFIG."""
    in_pod = environ.get("KUBERNETES_SERVICE_HOST")
    if not kubeconfig and in_pod and (POD_SECRETS / "token").exists():
        host = f"[{in_pod}]" if ":" in in_pod else in_pod
        tls = ssl.create_default_context(cafile=str(POD_SECRETS / "ca.crt"))
        server = f"https://{host}:{environ.get('KUBERNETES_SERVICE_PORT', '443')}"
        return Access(server=server, tls=tls, token_file=POD_SECRETS / "token")
    path = Path(kubeconfig or environ.get("KUBECONFIG", "") or Path.home() / ".kube" / "config")
    return from_kubeconfig(path, context)


def from_kubeconfig(path: Path, context: str = "") -> Access:
    config = yaml.safe_load(path.read_text())
    chosen = _named(config, "contexts", context or config["current-context"])["context"]
    cluster = _named(config, "clusters", chosen["cluster"])["cluster"]
    user = _named(config, "users", chosen["user"])["user"]
    if "exec" in user or "auth-provider" in user:
        raise ValueError(f"{path}: user {chosen['user']} logs in by a plugin; the router needs certificates or a token")
    server = str(cluster["server"])
    tls = _tls(cluster, user, path.parent) if server.startswith("https") else None
    file = user.get("tokenFile")
    return Access(server=server, tls=tls, token=user.get("token"), token_file=path.parent / file if file else None)


def _named(config: Object, kind: str, name: str) -> Object:
    found = next((entry for entry in config.get(kind) or [] if entry["name"] == name), None)
    if found is None:
        raise ValueError(f"kubeconfig has no {kind[:-1]} {name!r}")
    return dict(found)


def _tls(cluster: Object, user: Object, folder: Path) -> ssl.SSLContext:
    tls = ssl.create_default_context()
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    elif ca := _pem(cluster, "certificate-authority", folder):
        tls.load_verify_locations(cadata=ca.decode())
    certificate, key = (_pem(user, name, folder) for name in ("client-certificate", "client-key"))
    if certificate and key:
        with tempfile.NamedTemporaryFile() as both:  # the ssl module reads certificates from files only
            both.write(certificate + b"\n" + key)
            both.flush()
            tls.load_cert_chain(both.name)
    return tls


def _pem(entry: Object, name: str, folder: Path) -> bytes | None:
    if data := entry.get(f"{name}-data"):
        return base64.b64decode(data)
    return (folder / entry[name]).read_bytes() if entry.get(name) else None


class Kube:
    """Lists and watches over one session."""

    def __init__(self, access: Access):
        self._access = access
        self._session = aiohttp.ClientSession(read_bufsize=1 << 20)

    async def close(self) -> None:
        await self._session.close()

    async def follow(self, path: str, query: Mapping[str, str], on_state: Callable[[list[Object]], None]) -> None:
        """Calls `on_state` with all objects after the first list and after each change, for ever.

        What was known stays in force while the API server cannot be reached.
        """
        pause_s, version, known = BACKOFF_S[0], "", dict[str, Object]()
        while True:
            try:
                if not version:
                    known, version = await self._list(path, query)
                    on_state(list(known.values()))
                async for event in self._watch(path, query, version):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        _apply(known, event)
                        on_state(list(known.values()))
                    pause_s = BACKOFF_S[0]
                continue  # the server ended the watch in good order
            except ApiError as error:
                LOG.log(logging.DEBUG if error.code == GONE else logging.WARNING, "%s: %s", path, error)
                version = ""  # too old, or something is odd: read all again
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError) as error:
                LOG.warning("%s: %s: %s", path, type(error).__name__, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_S[1])

    async def _list(self, path: str, query: Mapping[str, str]) -> tuple[dict[str, Object], str]:
        timeout = aiohttp.ClientTimeout(total=LIST_S)
        async with self._get(path, query, timeout) as reply:
            answer = await reply.json()
        if reply.status != 200:
            raise ApiError(reply.status, str(answer.get("message")))
        objects = {o["metadata"]["name"]: o for o in answer["items"]}
        return objects, answer["metadata"]["resourceVersion"]

    async def _watch(self, path: str, query: Mapping[str, str], version: str) -> AsyncIterator[Object]:
        asked = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_S)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=LIST_S, sock_read=READ_S)
        async with self._get(path, {**query, **asked, "resourceVersion": version}, timeout) as reply:
            if reply.status != 200:
                raise ApiError(reply.status, (await reply.text())[:300])
            async for line in _lines(reply.content):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(event["object"].get("code", GONE), event["object"].get("message", ""))
                yield event

    def _get(self, path: str, query: Mapping[str, str], timeout: aiohttp.ClientTimeout) -> Any:
        url, access = self._access.server.rstrip("/") + path, self._access
        return self._session.get(url, params=query, headers=access.headers(), ssl=access.tls or True, timeout=timeout)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; StreamReader.readline refuses long ones, and a pod may be a long line."""
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line


def _apply(known: dict[str, Object], event: Object) -> None:
    name = event["object"]["metadata"]["name"]
    if event["type"] == "DELETED":
        known.pop(name, None)
    else:
        known[name] = event["object"]
