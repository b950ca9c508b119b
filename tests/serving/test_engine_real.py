"""The real engine on this machine's CPU: stock vLLM, SLAI as a prefill and a decode engine, a paced one, slai-plus.

Five processes are started once for the file (about a minute). fp32 and greedy: equal tokens mean an equal computation.
"""

from __future__ import annotations

import io
import json
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e.engine import local
from llmservice_cli.main import main as command
from llmservice_core import contract
from llmservice_core import metric_names as names
from llmservice_core.step_models import step_model
from llmservice_serving.engine_step_times import ENOUGH_STEPS
from tests.serving.engine_room import require_engine_environment

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
TRACE = Path(gettempdir()) / f"llmservice-trace-{os.getpid()}.json"
PACE_MODEL, SCALE = "rtx4090-mistral-7b", 8
RELAXED = {"class": "batch", "ttft_s": 30.0, "tbt_s": 0.5, "age_s": 0.01}
STRICT = {"class": "interactive", "ttft_s": 0.5, "tbt_s": 0.1, "age_s": 0.0}
FOR_REMOTE_DECODE: dict[str, Any] = {
    "do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None,
    "remote_host": None, "remote_port": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Site:
    stock: local.Engine
    prefill: local.Engine
    decode: local.Engine
    paced: local.Engine
    plus: local.Engine
    """slai-plus at full speed: it must first learn how long its own steps last."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    require_engine_environment()
    port = iter(local.free_ports(12))
    options = (
        local.Options(port=next(port), metrics_port=next(port), stock=True, max_batched_tokens=128),
        local.Options(role="prefill", port=next(port), metrics_port=next(port), nixl_port=next(port),
                      max_batched_tokens=128, service="site/chat"),
        local.Options(role="decode", port=next(port), metrics_port=next(port), nixl_port=next(port),
                      service="site/chat"),
        local.Options(port=next(port), metrics_port=next(port), max_batched_tokens=64,
                      pace=f"{PACE_MODEL},scale={SCALE}"),
        local.Options(port=next(port), metrics_port=next(port), policy="slai-plus", max_batched_tokens=768,
                      env={contract.ENV_TRACE: str(TRACE)}, args=("--no-enable-prefix-caching",)),
    )  # fmt: skip
    TRACE.unlink(missing_ok=True)
    with local.engines(*options) as started:
        yield Site(*started)


def complete(engine: local.Engine, prompt: list[int], tokens: int, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True, **fields}  # fmt: skip
    reply = httpx.post(f"{engine.url}/v1/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def token_ids(answer: dict[str, Any]) -> list[int]:
    ids: list[int] = answer["choices"][0]["token_ids"]
    return ids


def random_prompt(seed: int, tokens: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(4, 1000) for _ in range(tokens)]


def scrape(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels, less the two labels that all of ours share."""
    text = httpx.get(url, timeout=5).text
    samples = (s for family in text_string_to_metric_families(text) for s in family.samples)
    return {(s.name, frozenset((k, v) for k, v in s.labels.items() if k not in (names.LLMSERVICE, names.POOL))): s.value
            for s in samples}  # fmt: skip


def value(url: str, name: str, **labels: str) -> float:
    found = scrape(url)
    return found.get((name, frozenset(labels.items())), 0.0)


def vllm_value(engine: local.Engine, name: str, **labels: str) -> float:
    return value(f"{engine.url}/metrics", name, engine="0", model_name="tiny", **labels)


def mixed_requests(count: int = 30) -> list[tuple[list[int], int, dict[str, Any]]]:
    """Short and long prompts, short and long answers, both classes and none."""
    kinds = (RELAXED, STRICT, RELAXED, None)
    return [(random_prompt(i, 40 + 37 * i % 500), 8 + 7 * i % 40, {"vllm_xargs": kinds[i % 4]} if kinds[i % 4] else {})
            for i in range(count)]  # fmt: skip


@pytest.fixture(scope="module")
def expected(site: Site) -> list[list[int]]:
    answers = [token_ids(complete(site.stock, p, n)) for p, n, _ in mixed_requests()]
    assert len({tuple(tokens[:5]) for tokens in answers}) > 25, "answers hardly depend on the prompt: proves nothing"
    return answers


def all_at_once(engine: local.Engine) -> tuple[list[list[int]], float]:
    """What the engine answers, and how many decodes it deferred meanwhile."""
    requests, before = mixed_requests(), value(engine.metrics_url, names.HIDDEN_TOTAL)
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda r: token_ids(complete(engine, r[0], r[1], **r[2])), requests))
    return answers, value(engine.metrics_url, names.HIDDEN_TOTAL) - before


def test_same_tokens_as_stock_while_decodes_are_hidden(site: Site, expected: list[list[int]]) -> None:
    answers, hidden = all_at_once(site.prefill)
    assert answers == expected
    assert hidden > 20, "no decode was ever deferred: proves nothing"


def test_same_tokens_as_stock_while_whole_steps_are_planned(site: Site, expected: list[list[int]]) -> None:
    """At first in SLAI's order; after some hundred steps the engine knows its own step times and plans with them."""
    while steps_of(site.plus) < 2 * ENOUGH_STEPS:
        assert all_at_once(site.plus)[0] == expected
    answers, hidden = all_at_once(site.plus)
    assert answers == expected
    assert hidden > 20, "no decode was ever deferred: proves nothing"


def test_the_exporter_counts_every_gap_and_every_step(site: Site) -> None:
    labels = {names.CLASS: "interactive", "slo": names.SLO_TBT, "target": "0.1"}
    url = site.decode.metrics_url
    before = scrape(url)
    complete(site.decode, random_prompt(100, 200), 16, vllm_xargs=STRICT)
    after = scrape(url)
    gained = {k: v - before.get(k, 0.0) for k, v in after.items()}
    one = {kind: gained[(names.STEPS, frozenset({(names.KIND, kind)}))] for kind in names.KINDS}
    assert one == {"prefill": 1, "decode": 15, "mixed": 0}
    assert gained[(names.SLO_EVENTS, frozenset(labels.items()))] == 15
    assert 0 < gained[(names.SLO_GOOD, frozenset(labels.items()))] <= 15
    kv = frozenset({(names.KIND, "decode"), ("i", "one"), ("j", "decode_kv")})
    assert gained[(names.STEP_XX, kv)] == pytest.approx(sum(200 + i for i in range(1, 16)) / 1000)
    work = frozenset({(names.KIND, "prefill"), ("i", "one"), ("j", "prefill_attention")})
    assert gained[(names.STEP_XX, work)] == pytest.approx(200 * 100 / 1e6)
    assert gained[(names.STEP_BIN_COUNT, frozenset({("bin", "193")}))] == 1
    assert after[(names.KV_TOKENS, frozenset())] == 32768
    assert after[(names.MAX_BATCHED_TOKENS, frozenset())] == 512


def test_the_exporter_names_service_and_pool(site: Site) -> None:
    text = httpx.get(site.decode.metrics_url, timeout=5).text
    assert f'{names.STEPS}{{kind="decode",llmservice="site/chat",pool="decode"}}' in text


def two_steps(site: Site, prompt: list[int], tokens: int) -> dict[str, Any]:
    first = complete(site.prefill, prompt, 1, kv_transfer_params=FOR_REMOTE_DECODE)
    return complete(site.decode, prompt, tokens, kv_transfer_params=first["kv_transfer_params"])


def test_kv_moves_from_prefill_to_decode_and_gives_the_same_tokens(site: Site) -> None:
    """320 is a whole number of blocks, 300 is not."""
    source = {"name": "vllm:prompt_tokens_by_source_total"}
    for seed, tokens in ((7, 300), (8, 320)):
        before = {s: vllm_value(site.decode, **source, source=s) for s in ("local_compute", "external_kv_transfer")}
        prompt = random_prompt(seed, tokens)
        assert token_ids(two_steps(site, prompt, 24)) == token_ids(complete(site.stock, prompt, 24))
        assert vllm_value(site.decode, **source, source="local_compute") == before["local_compute"]
        gained = vllm_value(site.decode, **source, source="external_kv_transfer") - before["external_kv_transfer"]
        assert gained == tokens


def test_blocks_that_nobody_pulled_are_shown_until_they_are(site: Site) -> None:
    prompt, url = random_prompt(9, 100), site.prefill.metrics_url
    first = complete(site.prefill, prompt, 1, kv_transfer_params=FOR_REMOTE_DECODE)
    assert value(url, names.UNPULLED_BLOCKS) == 4
    complete(site.decode, prompt, 2, kv_transfer_params=first["kv_transfer_params"])
    end = time.monotonic() + 5
    while value(url, names.UNPULLED_BLOCKS) and time.monotonic() < end:
        time.sleep(0.05)
    assert value(url, names.UNPULLED_BLOCKS) == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"tbt_s": "soon"}, {"tbt_s": -1.0}, {"tbt_s": 0}, {"ttft_s": [1, 2]}, {"class": 7}, {"class": "X" * 400},
        {"class": "a b", "tbt_s": 0.1}, {"age_s": -5}, {"tbt_s": 1e300}, {"age_s": "0.1"},
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_about_a_request_is_counted_and_kills_nothing(site: Site, bad: dict[str, Any]) -> None:
    before = value(site.decode.metrics_url, names.BAD_XARGS)
    assert len(token_ids(complete(site.decode, random_prompt(3, 20), 3, vllm_xargs=bad))) == 3
    assert value(site.decode.metrics_url, names.BAD_XARGS) == before + 1


def test_a_live_engine_says_what_it_does_and_why(site: Site) -> None:
    """Through the command, while twenty answers are under way."""
    with ThreadPoolExecutor(20) as pool:
        answers = [
            pool.submit(complete, site.prefill, random_prompt(i, 300), 400, vllm_xargs=RELAXED) for i in range(20)
        ]
        said = explain(site.prefill)
        while len(said["requests"]) < 20 and not all(a.done() for a in answers):
            said = explain(site.prefill)
        assert [len(token_ids(a.result())) for a in answers] == [400] * 20
    places = {request["place"] for request in said["requests"]}
    assert said["policy"] == "slai-plus"
    assert places <= {"queued", "prefill", "paused", "runs", "waits", "if budget is left"}
    assert len(said["requests"]) == 20
    assert all(request["tbt_s"] == 0.5 and request["class"] == "batch" for request in said["requests"])
    streaming = [r for r in said["requests"] if r["produced_tokens"]]
    assert all(r["slack_s"] == pytest.approx(0.5 - r["since_last_token_s"]) for r in streaming)
    assert explain(site.prefill)["requests"] == []


def explain(engine: local.Engine) -> dict[str, Any]:
    said = io.StringIO()
    with redirect_stdout(said):
        assert command(["engine", "explain", engine.metrics_url, "--json"]) == 0
    found: dict[str, Any] = json.loads(said.getvalue())
    return found


def test_a_trace_shows_every_step_and_every_token(site: Site) -> None:
    """Of the engine that learned its step times; the file is an array that is never closed."""
    before = steps_of(site.plus)
    complete(site.plus, random_prompt(900, 700), 30, vllm_xargs=STRICT)
    events = json.loads(TRACE.read_text().rstrip().rstrip(",") + "]")
    steps = [e for e in events if e["ph"] == "X" and e["tid"] == 0]
    assert len(steps) == steps_of(site.plus) > before
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    own = max(tracks)
    assert tracks[own].startswith("interactive 700 tokens, TBT 0.1 s")
    mine = [e["name"] for e in events if e["ph"] == "X" and e["tid"] == own]
    assert mine == ["prefill 700", *["decode"] * 29]
    assert all(e["dur"] > 0 for e in steps)
    assert any("predicted_ms" in e["args"] for e in steps), "no step was planned"


def steps_of(engine: local.Engine) -> float:
    return sum(value(engine.metrics_url, names.STEPS, kind=kind) for kind in names.KINDS)


def test_an_aborted_client_leaves_no_trace(site: Site) -> None:
    body = {"model": "tiny", "prompt": random_prompt(4, 50), "max_tokens": 1500, "stream": True,
            "vllm_xargs": RELAXED}  # fmt: skip
    with httpx.stream("POST", f"{site.decode.url}/v1/completions", json=body, timeout=30) as reply:
        next(reply.iter_lines())
    end = time.monotonic() + 5
    while value(site.decode.metrics_url, names.RUNNING, phase="decode") and time.monotonic() < end:
        time.sleep(0.05)
    assert value(site.decode.metrics_url, names.RUNNING, phase="decode") == 0


def paced_seconds(site: Site, seed: int) -> dict[str, float]:
    """Seconds by kind of one prompt of 128 tiny tokens and 20 decodes, and what they took beyond their pace."""
    before = scrape(site.paced.metrics_url)
    complete(site.paced, random_prompt(seed, 128), 21, vllm_xargs=RELAXED)
    gained = {key: after - before.get(key, 0.0) for key, after in scrape(site.paced.metrics_url).items()}
    assert gained[(names.PACED_STEPS, frozenset())] == 22
    kinds = {kind: gained[(names.STEP_SECONDS, frozenset({(names.KIND, kind)}))] for kind in ("prefill", "decode")}
    return {**kinds, "late": gained[(names.PACE_LATE_SECONDS, frozenset())]}


def test_paced_steps_last_as_long_as_on_the_card(site: Site) -> None:
    """Two chunks of 64 tiny tokens are 512 real ones each. Time beyond that is counted, to the millisecond."""
    model = step_model(PACE_MODEL)
    chunks = model.step_s([(512, 0)]) + model.step_s([(512, 512)])
    decodes = sum(model.step_s([], [8 * (128 + i)] * 8) for i in range(1, 21))
    runs = [paced_seconds(site, seed) for seed in range(11, 16)]
    for seconds in runs:
        assert seconds["prefill"] >= 0.999 * chunks
        assert seconds["decode"] >= 0.999 * decodes
        assert seconds["prefill"] + seconds["decode"] - seconds["late"] == pytest.approx(chunks + decodes, abs=0.002)
    assert min(seconds["prefill"] for seconds in runs) == pytest.approx(chunks, rel=0.05)
    assert min(seconds["decode"] for seconds in runs) == pytest.approx(decodes, rel=0.05)
    assert value(site.paced.metrics_url, names.TILE_TOKENS) == 128 / SCALE


def test_a_step_slower_than_its_pace_is_counted(site: Site) -> None:
    """The process is stopped in the middle of a stream: the step under way then takes longer than the card would.

    Most of a step is sleep, so the stop may make a late wake-up of it rather than an overrun; lost time counts both.
    """
    url = site.paced.metrics_url
    before = value(url, names.PACE_LATE_SECONDS)
    core = local.core_pid(site.paced)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(complete, site.paced, random_prompt(12, 30), 60)
        time.sleep(0.4)
        with local.stopped(core):
            time.sleep(0.3)
        assert len(token_ids(answer.result())) == 60
    assert value(url, names.PACE_LATE_SECONDS) - before > 0.2
