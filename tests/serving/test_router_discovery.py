"""Engines and classes through the API server: what a pod means, how fast a change works, what survives trouble.

Against a small API server in this process; `test_router_api` asks the real one.
"""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmservice_api.resource import LLMService
from llmservice_core.contract import ANNOTATION_DRAIN
from llmservice_core.model import Pool
from llmservice_serving.router import discovery, kube
from llmservice_serving.router.service_config import from_manifest
from tests.serving.router_fake_api import FakeApi, drained, pod, pods_with_engines, states, watched
from tests.serving.router_fakes import MANIFEST, Engine, until

ROOT = Path(__file__).parents[2]
ASK = {"model": "chat", "prompt": "hello", "max_tokens": 5}


PODS = {
    "ready": (pod("a"), "ready"),
    "not ready": (pod("a", ready=False), "not_ready"),
    "no address yet": (pod("a", ip=None), "not_ready"),
    "no status at all": ({**pod("a"), "status": None}, "not_ready"),
    "being deleted": (pod("a", deletionTimestamp="2026-01-01T00:00:00Z"), "draining"),
    "annotated by the operator": (pod("a", annotations={ANNOTATION_DRAIN: "2026-01-01T00:00:00Z"}), "draining"),
}


@pytest.mark.parametrize(("seen", "state"), PODS.values(), ids=PODS.keys())
def test_what_a_pod_means(seen: Any, state: str) -> None:
    endpoint = discovery.endpoint_of(seen, 8000)
    assert endpoint is not None
    assert (endpoint.pool, endpoint.revision) == (Pool.MIXED, "r1")
    assert ("draining" if endpoint.draining else "ready" if endpoint.ready else "not_ready") == state


SINCE = {
    "stays": ({}, None),
    "drains": ({"annotations": {ANNOTATION_DRAIN: "2026-01-01T00:01:00Z"}}, 60.0),
    "a drain without a time": ({"annotations": {ANNOTATION_DRAIN: "yes"}}, None),
    "deleted with a time of its own": (
        {"deletionTimestamp": "2026-01-01T00:03:00Z", "deletionGracePeriodSeconds": 170},
        10.0,
    ),
    "drained first": (
        {
            "annotations": {ANNOTATION_DRAIN: "2026-01-01T00:01:00Z"},
            "deletionTimestamp": "2026-01-01T00:09:00Z",
            "deletionGracePeriodSeconds": 120,
        },
        60.0,
    ),
}


@pytest.mark.parametrize(("meta", "after_s"), SINCE.values(), ids=SINCE.keys())
def test_since_when_a_pod_leaves(meta: Any, after_s: float | None) -> None:
    found = discovery.endpoint_of(pod("a", **meta), 8000)
    assert found is not None
    began_s = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert found.leaving_since_s == (None if after_s is None else began_s + after_s)


def test_addresses_and_pods_of_no_pool() -> None:
    six = discovery.endpoint_of(pod("a", ip="fd00::1"), 8000)
    assert six is not None
    assert six.url == "http://[fd00::1]:8000"
    assert discovery.endpoint_of(pod("a", "other"), 8000) is None


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_router_reads_a_manifest_as_the_resource_model_does(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        if manifest and manifest["kind"] == "LLMService":
            model, ours = LLMService.model_validate(manifest), from_manifest(manifest)
            assert ours.classes == model.to_goal().classes
            assert ours.served_name == model.served_name


async def test_a_change_is_in_force_within_a_second(tmp_path: Path) -> None:
    api = FakeApi()
    async with watched(tmp_path, api) as r:
        await until(lambda: r.shared.not_ready() is None and len(api.watches) == 2)
        steps = [
            (pod("a", ready=False), {"a": "not_ready"}),
            (pod("a"), {"a": "ready"}),
            (pod("a", annotations={ANNOTATION_DRAIN: "now"}), {"a": "draining"}),
            (pod("a"), {"a": "ready"}),
            (pod("a", deletionTimestamp="now"), {"a": "draining"}),
        ]
        for thing, expected in steps:
            api.put("pods", thing)
            await until(lambda expected=expected: states(r) == expected, timeout_s=1)
        api.put("pods", pod("a"), "DELETED")
        await until(lambda: states(r) == {}, timeout_s=1)
        assert api.lists == 2


async def test_classes_change_without_a_restart(tmp_path: Path) -> None:
    api = FakeApi()
    async with watched(tmp_path, api) as r:
        await until(lambda: r.shared.not_ready() is None and len(api.watches) == 2)
        changed = json.loads(json.dumps(MANIFEST))
        changed["spec"]["classes"][0]["ttft"]["target"] = "200ms"
        api.put("llmservices", changed)
        await until(lambda: r.shared.configured().class_for("interactive").ttft.target_s == 0.2, timeout_s=1)
        assert 'target="0.2"' in str(await r.metrics())
        broken = json.loads(json.dumps(changed))
        broken["spec"]["classes"] = []
        api.put("llmservices", broken)
        await asyncio.sleep(0.1)
        assert r.shared.configured().class_for("interactive").ttft.target_s == 0.2


async def test_not_ready_until_config_and_engines_are_read(tmp_path: Path) -> None:
    api = FakeApi()
    api.objects["llmservices"] = {}
    async with watched(tmp_path, api) as r:
        await until(lambda: len(api.watches) == 2)
        async with r.client.get(r.admin + "/readyz") as reply:
            assert reply.status == 503
        async with r.post(ASK) as reply:
            assert reply.status == 503
            assert "LLMService" in (await reply.json())["error"]["message"]
        api.put("llmservices", MANIFEST, "ADDED")
        await until(lambda: r.shared.not_ready() is None, timeout_s=1)


async def test_an_api_server_that_is_away_changes_nothing_and_is_found_again(tmp_path: Path) -> None:
    api = FakeApi()
    api.put("pods", pod("a"), "ADDED")
    async with watched(tmp_path, api) as r:
        await until(lambda: states(r) == {"a": "ready"} and len(api.watches) == 2)
        api.down = True
        api.cut()
        await asyncio.sleep(0.5)
        assert states(r) == {"a": "ready"}
        assert r.shared.not_ready() is None
        api.put("pods", pod("b"), "ADDED")
        api.down = False
        await until(lambda: states(r) == {"a": "ready", "b": "ready"}, timeout_s=3)


async def test_a_watch_that_is_too_old_is_started_again(tmp_path: Path) -> None:
    api = FakeApi()
    api.expire = True
    async with watched(tmp_path, api) as r:
        await until(lambda: len(api.watches) == 2)
        assert api.lists == 3
        api.put("pods", pod("a"), "ADDED")
        await until(lambda: states(r) == {"a": "ready"}, timeout_s=1)


async def test_a_decode_engine_that_begins_to_drain_during_the_prefill_is_replaced(tmp_path: Path) -> None:
    api = FakeApi()
    engines = {"prefill-1": Engine("p", gap_s=0.5), "decode-1": Engine("d1"), "decode-2": Engine("d2")}
    async with pods_with_engines(api, engines) as port, watched(tmp_path, api, port) as r:
        await until(lambda: list(states(r).values()) == ["ready"] * 3)
        asking = asyncio.create_task(r.post(ASK).__aenter__())
        await until(lambda: engines["prefill-1"].bodies)
        reserved = next(e for e in r.shared.fleet.snapshot() if e.pool == "decode" and e.in_flight)
        api.put("pods", drained(reserved.name, reserved.url.split("//")[1].split(":")[0]))
        assert (await asking).status == 200
        other = next(n for n in ("decode-1", "decode-2") if n != reserved.name)
        assert (len(engines[reserved.name].bodies), len(engines[other].bodies)) == (0, 1)
        assert engines[other].body["kv_transfer_params"]["remote_host"] == "10.0.0.9"
        assert all(e.in_flight == 0 for e in r.shared.fleet.snapshot())


async def test_a_draining_engine_finishes_its_streams_and_gets_no_more(tmp_path: Path) -> None:
    api, m1, m2 = FakeApi(), Engine("m1", tokens=20, gap_s=0.03), Engine("m2")
    async with pods_with_engines(api, {"mixed-1": m1}) as port, watched(tmp_path, api, port) as r:
        await until(lambda: states(r) == {"mixed-1": "ready"})
        reply = await r.post({**ASK, "stream": True})
        api.put("pods", drained("mixed-1", "127.0.0.2"))
        await until(lambda: states(r) == {"mixed-1": "draining"}, timeout_s=1)
        async with r.post(ASK) as refused:
            assert refused.status == 503
        assert "[DONE]" in await reply.text()
        assert (len(m1.bodies), len(m2.bodies)) == (1, 0)


async def test_revisions_never_pair_during_a_rollout(tmp_path: Path) -> None:
    api = FakeApi()
    engines = {"prefill-1": Engine("p1"), "decode-1": Engine("d1"), "decode-2": Engine("d2")}
    async with pods_with_engines(api, engines) as port, watched(tmp_path, api, port) as r:
        new = pod("decode-2", "decode", ip="127.0.0.4")
        new["metadata"]["labels"]["llmservice.dev/revision"] = "r2"
        api.put("pods", new)
        await until(lambda: {e.revision for e in r.shared.fleet.snapshot()} == {"r1", "r2"})
        for _ in range(6):
            await (await r.post(ASK)).read()
        assert (len(engines["decode-1"].bodies), len(engines["decode-2"].bodies)) == (6, 0)
        api.put("pods", drained("decode-1", "127.0.0.3"))
        await until(lambda: states(r)["decode-1"] == "draining")
        async with r.post(ASK) as reply:
            assert reply.status == 503
            assert "same revision" in (await reply.json())["error"]["message"]


def test_kubeconfig_with_a_plugin_is_refused_in_words(tmp_path: Path) -> None:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "https://x"}}],
        "users": [{"name": "u", "user": {"exec": {"command": "login"}}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "k").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="plugin"):
        kube.find_access(str(tmp_path / "k"))
    with pytest.raises(ValueError, match="no context 'y'"):
        kube.find_access(str(tmp_path / "k"), "y")
