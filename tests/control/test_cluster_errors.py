"""Answers of the API server -> one of two kinds of failure: try again, or a person must change something."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from llmservice_operator.cluster import Cluster
from llmservice_operator.errors import Exists, Expired, Gone, Misconfigured, NotReady, OperatorError, Unreachable
from llmservice_operator.kinds import DEPLOYMENT

UNKNOWN_FIELD = "failed to create typed patch object: .spec.x: field not declared in schema"
WRONG_TYPE = "failed to create typed patch object: .spec.hostIPC: expected boolean, got yes"
BAD_AMOUNT = "failed to convert new object to proper version: quantities must match the regular expression"
ANSWERS = [
    (404, "not found", Gone),
    (410, "too old resource version", Expired),
    (401, "Unauthorized", NotReady),
    (409, "the object has been modified", NotReady),
    (409, 'events "chat.1" already exists', Exists),
    (429, "storage is (re)initializing", NotReady),
    (500, "etcdserver: leader changed", NotReady),
    (503, "apiserver is shutting down", NotReady),
    (403, "unable to create new content in namespace a because it is being terminated", NotReady),
    (500, UNKNOWN_FIELD, Misconfigured),
    (500, WRONG_TYPE, Misconfigured),
    (500, BAD_AMOUNT, Misconfigured),
    (403, "deployments.apps is forbidden", Misconfigured),
    (422, "spec.replicas: Invalid value", Misconfigured),
]


class Api:
    """Answers every request the same way."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"{}"

    async def handle(self, _: web.Request) -> web.Response:
        return web.Response(status=self.status, body=self.body, content_type="application/json")


@pytest.fixture
def answers() -> Api:
    return Api()


@pytest_asyncio.fixture
async def door(answers: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answers.handle)
    server = TestServer(app)
    await server.start_server()
    config: dict[str, Any] = {
        "clusters": [{"name": "c", "cluster": {"server": str(server.make_url("")).rstrip("/")}}],
        "users": [{"name": "c", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "current-context": "c",
    }
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    cluster = Cluster()
    await cluster.connect()
    yield cluster
    await cluster.close()
    await server.close()


@pytest.mark.parametrize(("status", "message", "expected"), ANSWERS, ids=[f"{s} {m[:30]}" for s, m, _ in ANSWERS])
async def test_answers(door: Cluster, answers: Api, status: int, message: str, expected: type[OperatorError]) -> None:
    answers.status, answers.body = status, json.dumps({"message": message}).encode()
    with pytest.raises(OperatorError, match=message.split("(")[0]) as error:
        await door.list(DEPLOYMENT, "ns")
    assert type(error.value) is expected


async def test_an_answer_that_is_no_status_is_told_as_it_is(door: Cluster, answers: Api) -> None:
    answers.status, answers.body = 502, b"<html>bad gateway</html>"
    with pytest.raises(NotReady, match="bad gateway"):
        await door.list(DEPLOYMENT, "ns")


async def test_an_error_inside_a_watch(door: Cluster, answers: Api) -> None:
    answers.body = b'{"type":"ERROR","object":{"code":410,"message":"too old"}}\n'
    with pytest.raises(Expired):
        await anext(door.watch(DEPLOYMENT, "ns", "1"))


async def test_items_know_their_kind(door: Cluster, answers: Api) -> None:
    body = {"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}}]}
    answers.body = json.dumps(body).encode()
    items, version = await door.list(DEPLOYMENT, "ns")
    assert (version, items) == (
        "7",
        [{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}],
    )


async def test_nobody_there(door: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((tmp_path / "config").read_text())
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    (tmp_path / "config").write_text(json.dumps(config))
    away = Cluster()
    await away.connect()
    try:
        with pytest.raises(Unreachable, match="does not answer"):
            await away.list(DEPLOYMENT, "ns")
    finally:
        await away.close()


def changed(name: str, size: int = 0) -> bytes:
    seen = {"metadata": {"name": name, "annotations": {"note": "x" * size}}}
    return json.dumps({"type": "MODIFIED", "object": seen}).encode() + b"\n"


async def test_a_watch_takes_objects_of_any_size(door: Cluster, answers: Api) -> None:
    answers.body = changed("small") + changed("as large as etcd takes", 1_500_000) + changed("behind it")
    found = [event["object"]["metadata"]["name"] async for event in door.watch(DEPLOYMENT, "ns", "1")]
    assert found == ["small", "as large as etcd takes", "behind it"]


async def test_a_watch_that_ends_within_an_event_is_tried_again(door: Cluster, answers: Api) -> None:
    answers.body = changed("whole") + changed("torn")[:40]
    watch = door.watch(DEPLOYMENT, "ns", "1")
    assert (await anext(watch))["object"]["metadata"]["name"] == "whole"
    with pytest.raises(NotReady, match="broke"):
        await anext(watch)
