"""Real vLLM engines and two tenants: each finds its own prompts in the prefix cache and never the other's."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from e2e.engine import local
from llmservice_core import metric_names as names
from llmservice_serving.router.settings import Settings
from tests.serving.router_engines import ask
from tests.serving.router_fakes import MANIFEST, Router, started, until
from tests.serving.router_keys import ACME, BETA, bearer, folder

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
TELL_CACHED = "--enable-prompt-tokens-details"
CHAT = {"model": "tiny", "max_tokens": 8, "temperature": 0, "messages": [{"role": "user", "content": "again " * 200}]}


@pytest.fixture(scope="module")
def engines() -> Iterator[list[local.Engine]]:
    ports = iter(local.free_ports(6))
    wanted = [
        local.Options(role=role, port=next(ports), metrics_port=next(ports), nixl_port=next(ports), args=(TELL_CACHED,))
        for role in ("prefill", "decode")
    ]
    with local.engines(*wanted) as both:
        yield both


@pytest_asyncio.fixture
async def guarded(engines: list[local.Engine], tmp_path: Path) -> AsyncIterator[Router]:
    manifest = tmp_path / "service.yaml"
    spec = {**MANIFEST["spec"], "model": {"name": "tiny", "servedName": "tiny"}}
    manifest.write_text(yaml.safe_dump({**MANIFEST, "spec": spec}))
    settings = Settings(
        config=str(manifest),
        service="default/chat",
        keys_dir=str(folder(tmp_path, {"acme": {"keys": [ACME]}, "beta": {"keys": [BETA]}})),
        host="127.0.0.1",
        port=0,
        metrics_port=0,
        prefill=(engines[0].url,),
        decode=(engines[1].url,),
    )
    async with started(settings) as r:
        await until(lambda: r.shared.fleet.snapshot() and all(e.ready for e in r.shared.fleet.snapshot()), 10)
        yield r


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", ask(320)), ("/v1/chat/completions", CHAT)],
    ids=["completions", "chat"],
)
async def test_a_tenant_finds_only_its_own_prompts_in_the_cache(
    guarded: Router, path: str, body: dict[str, Any]
) -> None:
    """Cached tokens as the prefill engine counts them; the answer is the same whoever asks and whatever was cached."""
    said: list[Any] = []
    cached: list[float] = []
    for key in (ACME, ACME, BETA, BETA, ACME):
        before = await guarded.metric(names.CACHED_TOKENS)
        async with guarded.post(body, path, headers=bearer(key)) as reply:
            assert reply.status == 200, await reply.text()
            choice = (await reply.json())["choices"][0]
            said.append(choice.get("text") or choice["message"]["content"])
        cached.append(await guarded.metric(names.CACHED_TOKENS) - before)
    assert (cached[0], cached[2]) == (0, 0), "the second tenant's first request knows nothing of the first's"
    assert min(cached[1], cached[3], cached[4]) > 0
    assert len(set(said)) == 1
