"""Values of Secrets, keys and tokens stand in nothing that operator and router say.

Logs, statuses, Events, children, metrics, answers and what reaches an engine are searched for them.

Both run as in a cluster, as their own ServiceAccounts, at their most talkative, through good and bad ways.
"""

import asyncio
import base64
import hashlib
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from e2e.cluster.bare import ControlPlane
from tests.control.support import Api, Operator, eventually, free_port, grant_rights, service
from tests.serving.router_fakes import JSON, Engine, running
from tests.serving.router_keys import ACME, ACME_NEW, BETA, TENANTS, UNKNOWN, bearer, folder

pytestmark = [pytest.mark.api, pytest.mark.timeout(900)]
HUB, REGISTRY, MINE, PROMETHEUS = (f"{name}-secret-{'q' * 30}" for name in ("hub", "registry", "mine", "prometheus"))
VALUES = [HUB, REGISTRY, MINE, PROMETHEUS, ACME, ACME_NEW, BETA, UNKNOWN]
DOCKER = json.dumps({"auths": {"r.example.com": {"auth": base64.b64encode(f"u:{REGISTRY}".encode()).decode()}}})
ASK = {"model": "chat", "prompt": "hello", "max_tokens": 4}


def secrets() -> list[dict[str, Any]]:
    """As people make them; the keys of tenants are a file each."""
    keys = {name: yaml.safe_dump(tenant) for name, tenant in TENANTS.items()}
    opaque = {"chat-keys": keys, "hub-token": {"token": HUB}, "mine": {"value": MINE}}
    made = [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": n}, "stringData": d} for n, d in opaque.items()]
    registry = {"name": "registry"}
    pull = {"apiVersion": "v1", "kind": "Secret", "metadata": registry, "type": "kubernetes.io/dockerconfigjson"}
    return [*made, pull | {"stringData": {".dockerconfigjson": DOCKER}}]


def body() -> dict[str, Any]:
    """A service that uses each of them."""
    template = {"spec": {"imagePullSecrets": [{"name": "registry"}]}}
    env = [{"name": "MINE", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "value"}}}]
    model = {"name": "org/model", "servedName": "chat", "tokenSecret": {"name": "hub-token"}}
    router = {"access": {"apiKeysSecret": "chat-keys"}, "template": template}
    made = service(model=model, engine={"env": env}, router=router)
    for pool in made["spec"]["pools"].values():
        pool["template"] = template
    return made


@pytest.fixture
def talkative(plane: ControlPlane, tmp_path: Path) -> Iterator[Operator]:
    """With a Prometheus that asks for a password and does not answer."""
    env = {
        "LLMSERVICE_LOG_LEVEL": "debug",
        "LLMSERVICE_HTTP_PORT": str(free_port()),
        "LLMSERVICE_PROMETHEUS_URL": f"http://metrics:{PROMETHEUS}@127.0.0.1:9",
        "LLMSERVICE_WATCH_NAMESPACES": "unsaid",
    }
    plane.kubectl("create", "namespace", "unsaid")
    kubeconfig = grant_rights(plane, tmp_path, "unsaid")
    one = Operator(plane=plane, kubeconfig=kubeconfig, log=tmp_path / "operator.log", env=env)
    one.start()
    yield one
    one.stop()
    print(one.log.read_text()[-20_000:])  # shown where the test fails


class Echo(Engine):
    """Notes the headers that reach an engine."""

    headers: list[str]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.headers = [*getattr(self, "headers", []), str(request.raw_headers)]
        return await super().answer(request)


@asynccontextmanager
async def router(api: Api, keys: Path, engine: Echo, log: Path) -> AsyncIterator[tuple[int, int]]:
    """As the account that the operator made for it; its two ports."""
    config = json.loads(api.plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": api("create", "token", "chat-router").strip()}
    kubeconfig = log.with_suffix(".kubeconfig")
    kubeconfig.write_text(json.dumps(config))
    port, admin = free_port(), free_port()
    flags = {"host": "127.0.0.1", "port": port, "metrics-port": admin, "mixed": engine.url, "keys-dir": keys}
    more = {"kubeconfig": kubeconfig, "service": f"{api.namespace}/chat", "log-level": "DEBUG", "exclude-s": 0.1}
    command = [sys.executable, "-m", "llmservice_serving.router", *(f"--{k}={v}" for k, v in {**flags, **more}.items())]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, env=dict(os.environ))
    try:
        async with aiohttp.ClientSession() as client, asyncio.timeout(60):
            while not await _is_ready(client, admin):
                await asyncio.sleep(0.2)
        yield port, admin
    finally:
        process.terminate()
        await process.wait()


async def _is_ready(client: aiohttp.ClientSession, admin: int) -> bool:
    try:
        async with client.get(f"http://127.0.0.1:{admin}/readyz") as reply:
            return reply.status == 200
    except aiohttp.ClientError:
        return False


async def asked(port: int, engine: Echo, keys: Path) -> list[str]:
    """Requests of every kind of end, and all that came back."""
    url, said = f"http://127.0.0.1:{port}", []
    async with aiohttp.ClientSession() as client:

        async def ask(key: str, path: str = "/v1/completions", body: JSON = ASK, **headers: str) -> int:
            async with client.post(url + path, json=body, headers={**bearer(key), **headers}) as reply:
                said.append(f"{reply.status} {reply.raw_headers!r} {await reply.text()}")
                return reply.status

        assert [await ask(ACME), await ask(ACME, body={**ASK, "stream": True}), await ask(UNKNOWN)] == [200, 200, 401]
        assert await ask(BETA, **{"x-llmservice-class": "batch"}) == 403
        assert await ask(ACME, f"/v1/nothing?key={ACME}") == 404
        assert await ask(ACME, body={**ASK, "n": ACME}) == 400
        for engine.mode in ("error", "close", "refuse", "stream_error"):
            await ask(ACME, body={**ASK, "stream": engine.mode == "stream_error"})
            await asyncio.sleep(0.3)
        engine.mode = "ok"
        (keys / "acme").write_text(f"{ACME_NEW}: [not a tenant")
        (keys / ACME_NEW).write_text("keys: [short]")
        await asyncio.sleep(2.5)
        await ask(ACME), await ask(ACME_NEW)
    said.append(await _torn(port, f"POST /v1/completions HTTP/1.1\r\nAuthorization: Bearer {ACME}\r\nX: \x00\r\n\r\n"))
    said.append(await _torn(port, f"GET {ACME} HTTP/9\r\n\r\n"))
    return said


async def _torn(port: int, sent: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent.encode("latin-1"))
    writer.write_eof()
    async with asyncio.timeout(20):
        text = (await reader.read()).decode("latin-1")
    writer.close()
    return text


def spelt(value: str) -> list[str]:
    """As it is, encoded at any offset, and as its digest, which would open the door to whoever can guess no key."""
    shifted = [base64.b64encode(b"x" * n + value.encode()).decode()[4:-4] for n in range(3)]
    return [value, *shifted, hashlib.sha256(value.encode()).hexdigest()]


def bad_ways(api: Api) -> None:
    """What makes the operator complain: a forbidden template, a wrong amount, a Secret that went, a child edited."""
    for template in (
        {"spec": {"hostPID": True}},
        {"spec": {"containers": [{"name": "engine", "resources": {"requests": {"cpu": "many"}}}]}},
    ):
        api.patch("llmsvc", "chat", {"spec": {"pools": {"decode": {"template": template}}}})
        eventually(lambda: api.told("chat", "Degraded", "True"))
    api.patch("llmsvc", "chat", {"spec": {"pools": {"decode": {"template": None}}}})
    eventually(lambda: api.told("chat", "Degraded", "False"))
    api("delete", "secret", "chat-keys", "hub-token")
    api("delete", "service", "chat")
    eventually(lambda: "Service/chat" in api.children())


def test_no_value_of_a_secret_is_said_anywhere(plane: ControlPlane, talkative: Operator, tmp_path: Path) -> None:
    api, engine = Api(plane, "unsaid"), Echo("m")
    api("create", "-f", "-", stdin=yaml.safe_dump_all(secrets()))
    api.create(body())
    eventually(api.is_ready, 120)
    keys, log = folder(tmp_path), tmp_path / "router.log"

    async def used() -> list[str]:
        async with running([engine]), router(api, keys, engine, log) as (port, admin):
            said = await asked(port, engine, keys)
            async with aiohttp.ClientSession() as client:
                for path in ("/metrics", "/fleet", "/readyz"):
                    async with client.get(f"http://127.0.0.1:{admin}{path}") as reply:
                        said.append(await reply.text())
            return said

    said = asyncio.run(used())
    bad_ways(api)
    kinds = "llmsvc,events,deployments,replicasets,pods,services,roles,rolebindings,serviceaccounts,networkpolicies"
    port = talkative.env["LLMSERVICE_HTTP_PORT"]
    said += [
        talkative.log.read_text(),
        log.read_text(),
        "\n".join(engine.headers),
        api("get", kinds, "-o", "json"),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode(),
    ]
    tokens = [json.loads(p.read_text())["users"][0]["user"]["token"] for p in tmp_path.glob("*kubeconfig")]
    assert len(tokens) == 2
    assert all(len(text) > 100 for text in said[-5:]), "each of them said something"
    assert "invalid_api_key" in "".join(said)
    found = {(v[:12], w) for v in (*VALUES, *tokens) for w in spelt(v) for text in said if w in text}
    assert found == set()
