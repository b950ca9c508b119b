"""Who comes in: keys, classes and token budgets through a real router, what engines get of it, and what logs do not."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from llmservice_core import metric_names as names
from llmservice_core.contract import HEADER_CLASS
from llmservice_serving.router import keys_dir
from tests.serving.router_fake_api import FakeApi, pod, watched
from tests.serving.router_fakes import MANIFEST, Engine, Router, router, until
from tests.serving.router_keys import ACME, ACME_NEW, BETA, GAMMA, TENANTS, UNKNOWN, bearer, folder, mount

ASK = {"model": "chat", "prompt": "hello", "max_tokens": 5}
STREAM = {**ASK, "stream": True}
DENIED, TOKENS = names.DENIED, names.TENANT_TOKENS


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_dir, "LOOK_EVERY_S", 0.02)


@asynccontextmanager
async def guarded(tmp_path: Path, tenants: dict[str, Any] = TENANTS, **options: Any) -> AsyncIterator[Router]:
    async with router(tmp_path, keys_dir=str(folder(tmp_path, tenants)), **options) as r:
        yield r


async def status(r: Router, key: str | None, body: dict[str, Any] = ASK, **headers: str) -> int:
    sent = {**(bearer(key) if key else {}), **headers}
    async with r.post(body, headers=sent) as reply:
        await reply.read()
        return int(reply.status)


async def error(r: Router, status: int, body: dict[str, Any] = ASK, **headers: str) -> tuple[dict[str, Any], Any]:
    async with r.post(body, headers=headers) as reply:
        assert reply.status == status, await reply.text()
        return (await reply.json())["error"], reply.headers


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({}, "asks for an API key"),
        ({"Authorization": "Basic abc"}, "holds no API key"),
        ({"Authorization": "Bearer "}, "holds no API key"),
        ({"Authorization": ACME}, "holds no API key"),
        (bearer(UNKNOWN), "not known"),
        (bearer(ACME + "a"), "not known"),
    ],
)
async def test_without_a_known_key_it_is_401_and_no_engine_is_asked(
    tmp_path: Path, sent: dict[str, str], words: str
) -> None:
    m = Engine("m")
    async with guarded(tmp_path, mixed=[m]) as r:
        said, headers = await error(r, 401, **sent)
        for path in ("/tokenize", "/v1/chat/completions"):
            async with r.post({"prompt": "a"}, path=path, headers=sent) as reply:
                assert reply.status == 401
        async with r.client.get(r.url + "/v1/models", headers=sent) as reply:
            assert reply.status == 401
        reason = "unknown_key" if words == "not known" else "no_key"
        assert await r.metric(DENIED, reason=reason, tenant="") == await r.metric(DENIED) == 4
        assert await r.metric(names.ARRIVALS, **{"class": ""}) == await r.metric(names.ARRIVALS) == 2, "no demand"
    assert words in said["message"]
    assert (said["type"], said["code"], said["param"]) == ("invalid_request_error", "invalid_api_key", None)
    assert headers["WWW-Authenticate"] == "Bearer"
    assert m.bodies == []


async def test_two_authorization_headers_are_none(tmp_path: Path) -> None:
    async with guarded(tmp_path, mixed=[Engine("m")]) as r:
        two = [("Authorization", f"Bearer {ACME}"), ("Authorization", f"Bearer {BETA}")]
        async with r.post(ASK, headers=two) as reply:
            assert reply.status == 401


async def test_a_known_key_comes_in_everywhere(tmp_path: Path) -> None:
    async with guarded(tmp_path, prefill=[Engine("p")], decode=[Engine("d")]) as r:
        assert await status(r, ACME) == 200
        assert await status(r, ACME, STREAM, Authorization=f"bearer   {ACME} ") == 200
        async with r.post({"prompt": "a"}, path="/tokenize", headers=bearer(ACME)) as reply:
            assert reply.status == 200
        async with r.client.get(r.url + "/v1/models", headers=bearer(ACME)) as reply:
            assert reply.status == 200
        assert await r.metric(names.ACCESS, state="keys") == await r.metric(names.ACCESS) == 1


async def test_classes_by_key(tmp_path: Path) -> None:
    """acme: all, and the service's default; beta: one class only; gamma: all, with a default of its own."""
    m = Engine("m")
    async with guarded(tmp_path, mixed=[m]) as r:
        for key, asked, got in (
            (ACME, None, "batch"),
            (ACME, "interactive", "interactive"),
            (BETA, None, "interactive"),
            (BETA, "interactive", "interactive"),
            (GAMMA, None, "interactive"),
            (GAMMA, "batch", "batch"),
        ):
            assert await status(r, key, **({HEADER_CLASS: asked} if asked else {})) == 200
            assert m.body["vllm_xargs"]["class"] == got
        said, _ = await error(r, 403, **bearer(BETA), **{HEADER_CLASS: "batch"})
        assert (said["code"], said["type"]) == ("class_not_allowed", "permission_error")
        assert "it may use: interactive" in said["message"]
        await error(r, 400, **bearer(ACME), **{HEADER_CLASS: "gold"})
        assert await r.metric(DENIED, tenant="beta", reason="class") == 1
    assert len(m.bodies) == 6


async def test_a_key_whose_class_the_service_no_longer_has(tmp_path: Path) -> None:
    tenants = {"acme": {"keys": [ACME], "classes": ["gone"]}}
    async with guarded(tmp_path, tenants, mixed=[Engine("m")]) as r:
        said, _ = await error(r, 403, **bearer(ACME))
        assert "'gone', is no class of this service" in said["message"]


async def test_keys_change_without_a_restart_and_streams_go_on(tmp_path: Path) -> None:
    m = Engine("m", gap_s=0.1)
    place = str(mount(tmp_path, TENANTS, 1))
    async with router(tmp_path, mixed=[m], keys_dir=place) as r, r.post(STREAM, headers=bearer(ACME)) as running:
        assert await status(r, ACME_NEW) == 401
        mount(tmp_path, {"acme": {"keys": [ACME, ACME_NEW]}}, 2)
        await until(lambda: knows(r, ACME_NEW))
        assert [await status(r, key) for key in (ACME, ACME_NEW, BETA)] == [200, 200, 401]
        mount(tmp_path, {"acme": {"keys": [ACME_NEW]}}, 3)
        await until(lambda: not knows(r, ACME))
        assert [await status(r, key) for key in (ACME, ACME_NEW)] == [401, 200]
        assert "[DONE]" in await running.text()


def knows(r: Router, key: str) -> bool:
    keyring = r.shared.door.keyring
    return keyring is not None and keyring.find(key) is not None


async def test_a_secret_that_turned_bad_keeps_the_last_good_keys(tmp_path: Path) -> None:
    async with guarded(tmp_path, mixed=[Engine("m")]) as r:
        (tmp_path / "keys" / "acme").write_text("keys: {{")
        await until(lambda: r.shared.door.problem)
        assert [await status(r, key) for key in (ACME, None, UNKNOWN)] == [200, 401, 401]
        assert await r.metric(names.ACCESS, state="stale") == 1
        async with r.client.get(r.admin + "/readyz") as reply:
            assert reply.status == 200, "it serves those whom it knows"


@pytest.mark.parametrize("tenants", [{"acme": "not an object"}, None], ids=["bad", "missing"])
async def test_without_any_good_keys_nobody_comes_in_and_the_router_is_not_ready(
    tmp_path: Path, tenants: dict[str, Any] | None
) -> None:
    m = Engine("m")
    if tenants:
        folder(tmp_path, tenants)
    async with router(tmp_path, mixed=[m], keys_dir=str(tmp_path / "keys")) as r:
        said, _ = await error(r, 503, **bearer(ACME))
        assert said["code"] == "keys_unreadable"
        async with r.client.get(r.admin + "/readyz") as reply:
            assert reply.status == 503
            assert "no API keys are in force" in await reply.text()
        assert await r.metric(names.ACCESS, state="closed") == 1
        assert await r.metric(DENIED, reason="keys_unreadable") == 1
        folder(tmp_path)
        await until(lambda: r.shared.not_ready() is None)
        assert await status(r, ACME) == 200
    assert len(m.bodies) == 1


async def test_a_router_without_keys_closes_when_its_service_asks_for_them(tmp_path: Path) -> None:
    """Routers from before the change must not stay open until those with the Secret are there."""
    api = FakeApi()
    async with watched(tmp_path, api) as r:
        await until(lambda: r.shared.not_ready() is None)
        assert await r.metric(names.ACCESS, state="open") == 1
        spec = {**MANIFEST["spec"], "router": {"access": {"apiKeysSecret": "chat-keys"}}}
        api.put("llmservices", {**MANIFEST, "spec": spec})
        await until(r.shared.not_ready)
        assert await status(r, ACME) == 503


async def test_an_open_router_takes_any_key_and_salts_nothing(tmp_path: Path) -> None:
    m = Engine("m")
    async with router(tmp_path, mixed=[m]) as r:
        assert [await status(r, key) for key in (None, UNKNOWN)] == [200, 200]
    assert all("cache_salt" not in body for body in m.bodies)


async def test_both_copies_carry_the_tenants_salt_and_no_other_tenants(tmp_path: Path) -> None:
    p, d = Engine("p"), Engine("d")
    salts: dict[str, set[str]] = {}
    for _ in range(2):  # a router that was started anew
        async with guarded(tmp_path, prefill=[p], decode=[d]) as r:
            for key in (ACME, BETA, GAMMA):
                for body in (ASK, STREAM, {**ASK, "cache_salt": "mine", "n": 2}):
                    p.bodies.clear()
                    d.bodies.clear()
                    assert await status(r, key, body) == 200
                    salts.setdefault(key, set()).update(b["cache_salt"] for b in (*p.bodies, *d.bodies))
    assert [len(found) for found in salts.values()] == [1, 1, 1]
    assert len(set().union(*salts.values())) == 3
    assert "mine" not in set().union(*salts.values())


async def test_engines_see_neither_key_nor_what_a_client_says_of_its_tenant(tmp_path: Path) -> None:
    seen: list[Any] = []
    m = Engine("m")
    answer = m.answer

    async def watch(request: Any) -> Any:
        seen.append(dict(request.headers))
        return await answer(request)

    m.answer = watch  # type: ignore[method-assign]
    async with guarded(tmp_path, mixed=[m]) as r:
        sent = {"x-llmservice-tenant": "beta", "Cookie": "a=b", HEADER_CLASS: "interactive"}
        assert await status(r, ACME, {**ASK, "user": "u"}, **sent) == 200
    assert ACME not in str(m.bodies)
    assert {name.lower() for name in seen[0]} <= {
        "content-type", "x-request-id", "content-length", "host", "accept", "accept-encoding", "user-agent",
    }  # fmt: skip
    assert "beta" not in str(seen)


LIMITED = {"acme": {"keys": [ACME, ACME_NEW], "tokensPerMinute": 600}, "beta": {"keys": [BETA]}}
"""A fake engine counts 10 prompt tokens and 4 of the answer: 14; predicted are 1 + 5."""


async def test_a_tenant_over_its_rate_is_told_how_long_to_wait(tmp_path: Path) -> None:
    m = Engine("m")
    async with guarded(tmp_path, LIMITED, mixed=[m]) as r:
        served = 0
        while await status(r, (ACME, ACME_NEW)[served % 2]) == 200:
            served += 1
        bucket = r.shared.door._buckets["acme"]
        said, headers = await error(r, 429, **bearer(ACME))
        left = bucket.at(r.shared.door.clock()).level_tokens
        assert 600 // 14 <= served <= 600 // 14 + 2, "charged by what was really used"
        assert (said["code"], said["type"]) == ("rate_limit_exceeded", "tokens")
        assert math.ceil((6 - left) / 10) <= int(headers["Retry-After"]) <= math.ceil((6 - left) / 10) + 1
        assert await status(r, BETA) == 200, "another tenant is not touched"
        assert await r.metric(DENIED, tenant="acme", reason="rate") == 2
        assert await r.metric(TOKENS, tenant="acme") == served * 14
        assert await r.metric(names.ARRIVALS, **{"class": "batch"}) == served + 1, "what is over the rate is no demand"
        r.shared.door.clock = lambda: bucket.at_s + 60
        assert await status(r, ACME) == 200


async def test_what_can_never_fit_is_said_at_once(tmp_path: Path) -> None:
    m = Engine("m")
    async with guarded(tmp_path, LIMITED, mixed=[m]) as r:
        said, headers = await error(r, 429, {**ASK, "prompt": [7] * 600}, **bearer(ACME))
        assert "may use 600 at once" in said["message"]
        assert (headers["x-should-retry"], "Retry-After" in headers) == ("false", False)
        assert await status(r, ACME, {**ASK, "n": 200}) == 429
        assert await r.metric(DENIED, reason="too_large_for_rate", tenant="acme") == 2
    assert m.bodies == []


FAILURES = [("error", ASK), ("error", STREAM), ("refuse", ASK), ("refuse", STREAM), ("stream_error", STREAM)]


@pytest.mark.parametrize("change", [{"n": 10**400}, {"best_of": -(10**400)}, {"max_tokens": 10**400}])
async def test_numbers_without_end_are_the_engines_to_refuse(tmp_path: Path, change: dict[str, Any]) -> None:
    async with guarded(tmp_path, mixed=[Engine("m")]) as r:
        assert await status(r, ACME, {**ASK, **change}) == 200
        assert await status(r, GAMMA, {**ASK, **change}) in (200, 429)


@pytest.mark.parametrize(("mode", "body"), [*FAILURES, ("cut", STREAM)])
async def test_what_failed_is_given_back(tmp_path: Path, mode: str, body: dict[str, Any]) -> None:
    async with guarded(tmp_path, LIMITED, mixed=[Engine("m", mode=mode)], wait_for_endpoint_s=0.01) as r:
        got = await status(r, ACME, body)
        assert (got == 200) == (mode == "cut"), "its answer had begun"
        assert r.shared.door._buckets["acme"].level_tokens == pytest.approx(600, abs=1e-6)
        assert await r.metric(TOKENS) == 0


async def test_a_client_that_leaves_pays_for_what_it_got(tmp_path: Path) -> None:
    m = Engine("m", tokens=100, gap_s=0.05)
    async with guarded(tmp_path, LIMITED, mixed=[m]) as r:
        async with r.post({**STREAM, "max_tokens": 100}, headers=bearer(ACME)) as reply:
            for _ in range(2 * 4):
                await reply.content.readline()
            reply.close()
        await until(lambda: not r.shared.running)
        used = await r.metric(TOKENS, tenant="acme")
        assert 4 <= used <= 10
        assert r.shared.door._buckets["acme"].level_tokens == pytest.approx(600 - used, abs=5)


async def test_several_routers_share_a_limit(tmp_path: Path) -> None:
    api = FakeApi()
    labels = {"llmservice.dev/name": "chat", "llmservice.dev/component": "router"}
    for name, ready in (("r-1", True), ("r-2", True), ("r-3", False)):
        one = pod(name, ready=ready)
        one["metadata"]["labels"] = labels
        api.put("pods", one, "ADDED")
    async with watched(tmp_path, api) as r:
        await until(lambda: r.shared.are_engines_synced and len(api.watches) == 2)
        assert r.shared.door.routers == 2
        assert r.shared.fleet.snapshot() == []
        door = r.shared.door
        door.has_keys, tenant = True, keys_dir.parse({"acme": yaml.safe_dump(LIMITED["acme"]).encode()}).tenants["acme"]
        door.charge(tenant, 300)
        with pytest.raises(Exception, match="may use 300 at once"):
            door.charge(tenant, 301)
        api.put("pods", api.objects["pods"]["r-2"], "DELETED")
        await until(lambda: door.routers == 1)
        with pytest.raises(Exception, match="tokens per minute; try again in"):
            door.charge(tenant, 301)


async def test_series_of_a_tenant_come_and_go_with_it(tmp_path: Path) -> None:
    async with guarded(tmp_path, mixed=[Engine("m")]) as r:
        assert await status(r, None, Authorization="Bearer made-up-tenant") == 401
        before = await r.metrics()
        assert f'{TOKENS}{{llmservice="default/chat",tenant="beta"}}' in before
        assert not any("made-up" in series for series in before)
        folder(tmp_path, {"acme": TENANTS["acme"]})
        await until(lambda: r.shared.door.keyring and len(r.shared.door.keyring.tenants) == 1)
        after = await r.metrics()
        assert not any('tenant="beta"' in series for series in after)
        assert any('tenant="acme"' in series for series in after)


async def test_the_stock_client_gets_its_own_kinds_of_errors(tmp_path: Path) -> None:
    tenants = {**TENANTS, "acme": {"keys": [ACME], "tokensPerMinute": 20}}
    async with guarded(tmp_path, tenants, mixed=[Engine("m")]) as r:

        async def ask(key: str, **more: Any) -> Any:
            async with openai.AsyncOpenAI(base_url=r.url + "/v1", api_key=key, max_retries=0) as client:
                return await client.completions.create(model="chat", prompt="a", max_tokens=5, **more)

        assert (await ask(GAMMA)).choices[0].text == "m"
        with pytest.raises(openai.AuthenticationError, match="not known") as unknown:
            await ask(UNKNOWN)
        assert unknown.value.code == "invalid_api_key"
        with pytest.raises(openai.PermissionDeniedError, match="may not use class"):
            await ask(BETA, extra_headers={HEADER_CLASS: "batch"})
        await ask(ACME)
        with pytest.raises(openai.RateLimitError, match="try again in") as limited:
            await asyncio.gather(*(ask(ACME) for _ in range(4)))
        assert int(limited.value.response.headers["Retry-After"]) >= 1


async def test_neither_logs_nor_metrics_nor_answers_hold_a_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    modes = ("ok", "error", "refuse", "close")
    async with guarded(tmp_path, mixed=[Engine(mode, mode=mode) for mode in modes], log_level="DEBUG") as r:
        for key in (ACME, BETA, UNKNOWN):
            for body in (ASK, STREAM, {**ASK, "stream": 1}):
                async with r.post(body, headers={**bearer(key), HEADER_CLASS: "batch"}) as reply:
                    said.append(str(reply.headers) + await reply.text())
        for bad in (f"keys: [{ACME}", f"keys: [{ACME}]\nclasses: {ACME_NEW}", ACME, f"{ACME}: 1"):
            (tmp_path / "keys" / "acme").write_text(bad)
            await asyncio.sleep(0.1)
        (tmp_path / "keys" / ACME).write_text("keys: []")
        await asyncio.sleep(0.1)
        async with r.client.get(r.admin + "/metrics") as reply:
            said.append(await reply.text())
        salt = r.shared.door.keyring.tenants["acme"].cache_salt("default/chat")  # type: ignore[union-attr]
    said += [record.getMessage() + str(record.exc_info) for record in caplog.records]
    assert sum("keys_unreadable" in text for text in said) >= 4
    for secret in (ACME, ACME_NEW, BETA, UNKNOWN, salt):
        assert [text for text in said if secret in text] == []
