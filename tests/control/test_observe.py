"""Observation from samples: a small real HTTP server answers with Prometheus' own JSON, recorded, or with a failure.

data/prometheus_range.json was recorded from Prometheus 2.53 scraping the product's own exporters every 0.5 s: 40
requests of 200 prompt tokens (50 cached) and 30 output tokens, 36 with TTFT in time; 3000 token gaps, 2970 in time, of
which 1000 before the first sample; 450 steps, 50 of them before it.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from llmservice_core import metric_names as names
from llmservice_core.model import Goal, Mode, Observation, Pool, PoolGoal, PoolSeen, Reason, ServiceClass, Slo
from llmservice_core.observation import NAMES, ReadySince
from llmservice_core.planner import plan
from llmservice_core.planner_memory import Memory
from llmservice_operator.observe import observe
from llmservice_operator.observe_prometheus import Prometheus

RECORDED = json.loads((Path(__file__).parent / "data" / "prometheus_range.json").read_text())
NEWEST_S = max(v[0] for s in RECORDED["data"]["result"] if names.POOL not in s["metric"] for v in s["values"])
SERVICE = "ns/chat"
BATCH = ServiceClass(
    name="batch", ttft=Slo(target_s=1, percentile=95), tbt=Slo(target_s=0.5, percentile=99), is_default=True
)
GOAL = Goal(
    classes=(BATCH,),
    pools=(
        PoolGoal(pool=Pool.PREFILL, min_replicas=1, max_replicas=8, gpus_per_replica=1),
        PoolGoal(pool=Pool.DECODE, min_replicas=1, max_replicas=8, gpus_per_replica=1),
    ),
    mode=Mode.AUTO,
    gpu_budget=None,
    interval_s=5.0,
    target_load=0.98,
    stabilization_s=0.0,
)
POOLS = tuple(
    PoolSeen(pool=p, desired=4, ready=4, starting=0, draining=0, unschedulable=0) for p in (Pool.PREFILL, Pool.DECODE)
)
LONG_AGO_S, JUST_NOW_S = NEWEST_S - 600.0, NEWEST_S - 5.0
SCRAPED = ReadySince(routers=[LONG_AGO_S], engines={Pool.DECODE: [LONG_AGO_S]})
"""Who is in the recorded answer."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Ask = Callable[..., Awaitable[Observation]]


@pytest_asyncio.fixture
async def ask() -> AsyncIterator[Ask]:
    """Observe through a server that answers with the given handler."""
    servers: list[TestServer] = []
    async with aiohttp.ClientSession() as session:

        async def go(handler: Handler, ready: ReadySince = SCRAPED) -> Observation:
            app = web.Application()
            app.router.add_post("/api/v1/query", handler)
            servers.append(TestServer(app))
            await servers[-1].start_server()
            door = Prometheus(str(servers[-1].make_url("/")), session, timeout_s=0.5)
            return await observe(GOAL, SERVICE, door, POOLS, 30.0, NEWEST_S + 2.0, ready)

        yield go
    for server in servers:
        await server.close()


def answers(body: Any, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        form = await request.post()
        assert str(form["query"]).startswith('{__name__=~"')
        return web.json_response(body, status=status)

    return handler


def says(text: str | bytes, status: int = 200) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=text if isinstance(text, bytes) else text.encode(), status=status)

    return handler


async def hangs(_: web.Request) -> web.Response:
    await asyncio.sleep(30.0)
    return web.Response()


async def cuts(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def edited(change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Any:
    """The recorded answer with each series changed, or left out where `change` gives None."""
    kept = [new for s in RECORDED["data"]["result"] if (new := change(s)) is not None]
    return {"status": "success", "data": {"resultType": "matrix", "result": kept}}


def without(*unwanted: str) -> Any:
    return edited(lambda s: None if s["metric"]["__name__"] in unwanted else s)


async def test_the_recorded_answer(ask: Ask) -> None:
    seen = await ask(answers(RECORDED))
    traffic, decode = seen.classes[0], seen.pools[1]
    assert seen.problem is None
    assert seen.newest_sample_s == NEWEST_S
    assert seen.scrape_gap_s == pytest.approx(0.5, abs=0.01)
    assert (traffic.arrivals_rps or 0.0) * seen.window_s == pytest.approx(40)
    assert (traffic.prompt_tokens, traffic.output_tokens) == (150.0, 30.0)
    assert (traffic.ttft and (traffic.ttft.events, traffic.ttft.good)) == (40.0, 36.0)
    assert (traffic.tbt and (traffic.tbt.events, traffic.tbt.good)) == (2000.0, 1980.0), "the first sample is the base"
    assert [(s.kind, s.steps) for s in decode.steps] == [("decode", 400.0)]
    assert decode.limits is not None
    assert (decode.limits.kv_tokens, decode.limits.tile_tokens) == (50_000.0, 16.0)
    assert (decode.waiting, decode.running_decodes) == (3.0, 8.0)
    prefill = seen.pools[0]
    assert (prefill.limits, prefill.steps, prefill.waiting) == (None, (), None), "no engine of it is scraped: unknown"
    assert (seen.unscraped_routers, prefill.unscraped, decode.unscraped) == (0, 0, 0)


FAILURES: dict[str, tuple[Handler, str]] = {
    "HTTP 500": (answers({"status": "error", "error": "storage is read only"}, 500), "answered 500: storage"),
    "HTTP 503 without reason": (says("", 503), "answered 503: no reason given"),
    "HTTP 404": (says("404 page not found", 404), "is this the URL of a Prometheus server?"),
    "HTTP 401": (says("who are you", 401), "answered 401"),
    "success false": (answers({"status": "error", "error": "bad_data"}), "without success: bad_data"),
    "HTML": (says("<html>hello</html>"), "did not answer with JSON"),
    "not UTF-8": (says(b"\xff\xfe\x00"), "did not answer with JSON"),
    "cut JSON": (says('{"status":"success","data":{"resul'), "did not answer with JSON"),
    "JSON of another kind": (answers([1, 2]), "without success"),
    "no data": (answers({"status": "success"}), "something else than a range vector"),
    "instant vector": (
        answers({"status": "success", "data": {"resultType": "vector", "result": []}}),
        "something else than a range vector",
    ),
    "malformed series": (
        answers({"status": "success", "data": {"resultType": "matrix", "result": [{"values": [[1, "2"]]}]}}),
        "malformed",
    ),
    "malformed sample": (
        answers({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": [1]}]}}),
        "malformed",
    ),
    "null result": (
        answers({"status": "success", "data": {"resultType": "matrix", "result": None}}),
        "malformed",
    ),
    "time-out": (hangs, "did not answer in 0.5 s"),
    "connection cut": (cuts, "cannot be reached"),
    "no series": (answers(edited(lambda s: None)), 'no series with llmservice="ns/chat"'),
    "no router": (answers(without(names.ARRIVALS)), "none of its router"),
    "all NaN": (
        answers(edited(lambda s: {**s, "values": [[t, "NaN"] for t, _ in s["values"]]})),
        'no series with llmservice="ns/chat"',
    ),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failure_is_unknown_and_says_why(ask: Ask, name: str) -> None:
    handler, words = FAILURES[name]
    seen = await ask(handler)
    assert words in (seen.problem or "")
    assert_nothing_known(seen)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "cannot be reached"),
        ("http://no-such-host.invalid:9090", "cannot be reached"),
        ("no url at all", "is not a URL"),
        ("ftp://127.0.0.1/x", "cannot be reached"),
        ("", "is not a URL"),
    ],
)
async def test_a_wrong_url_is_unknown_and_says_why(url: str, words: str) -> None:
    async with aiohttp.ClientSession() as session:
        seen = await observe(GOAL, SERVICE, Prometheus(url, session), POOLS, None, NEWEST_S)
    assert words in (seen.problem or "")
    assert_nothing_known(seen)


def assert_nothing_known(seen: Observation) -> None:
    """None everywhere, pods as the cluster shows them, and nothing scales down (nor up)."""
    assert seen.newest_sample_s is None
    assert seen.waiting_prompt_tokens is None
    assert all(c.arrivals_rps is None and c.ttft is None and c.tbt is None for c in seen.classes)
    assert seen.pools == POOLS
    made, _ = plan(GOAL, seen, None)
    assert {(p.replicas, p.reason) for p in made.pools} == {(4, Reason.METRICS_MISSING)}
    assert seen.problem in made.message


@pytest.mark.parametrize("url", ["http://me:pa/ss@127.0.0.1:1", "http://me:pass@127.0.0.1:1/x"])
async def test_a_password_in_the_url_is_not_told(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        seen = await observe(GOAL, SERVICE, Prometheus(url, session), POOLS, None, NEWEST_S)
    assert seen.problem is not None
    assert "ss@" not in seen.problem
    assert "me:" not in seen.problem


async def test_nan_in_one_counter_is_left_out(ask: Ask) -> None:
    """A NaN sample is no sample; the finite ones around it still count."""

    def poison(s: dict[str, Any]) -> dict[str, Any]:
        if s["metric"]["__name__"] == names.ARRIVALS:
            return {**s, "values": [*s["values"][:-2], [s["values"][-2][0], "NaN"], s["values"][-1]]}
        return s

    seen = await ask(answers(edited(poison)))
    assert (seen.classes[0].arrivals_rps or 0.0) * seen.window_s == pytest.approx(40)


async def test_nan_in_step_sums_drops_that_pod_s_stretch_not_the_scale(ask: Ask) -> None:
    def poison(s: dict[str, Any]) -> dict[str, Any]:
        if s["metric"]["__name__"] == names.STEP_XY:
            return {**s, "values": [*s["values"][:-1], [s["values"][-1][0], "NaN"]]}
        return s

    seen = await ask(answers(edited(poison)))
    assert seen.pools[1].steps == (), "sums that do not belong together are not used"


async def test_absent_classes_are_unknown_not_idle(ask: Ask) -> None:
    renamed = edited(lambda s: {**s, "metric": {**s["metric"], "class": "other"}} if "class" in s["metric"] else s)
    seen = await ask(answers(renamed))
    assert seen.problem is None
    assert seen.classes[0].arrivals_rps is None
    made, _ = plan(GOAL, seen, None)
    assert {(p.replicas, p.reason) for p in made.pools} == {(4, Reason.METRICS_MISSING)}


async def test_old_targets_do_not_count(ask: Ask) -> None:
    old = edited(lambda s: {**s, "metric": {**s["metric"], "target": "9"}} if "target" in s["metric"] else s)
    seen = await ask(answers(old))
    traffic = seen.classes[0]
    assert (traffic.ttft and traffic.ttft.events, traffic.tbt and traffic.tbt.events) == (0.0, 0.0)


async def test_without_engines_attainment_of_gaps_is_unknown(ask: Ask) -> None:
    seen = await ask(answers(edited(lambda s: None if names.POOL in s["metric"] else s)))
    assert seen.classes[0].tbt is None
    assert seen.classes[0].ttft is not None
    assert seen.pools[1].limits is None


async def test_engines_that_serve_and_are_not_scraped_are_counted(ask: Ask) -> None:
    """One decode engine of two is in the answer, and no prefill engine; the third decode engine is only just Ready."""
    engines = {Pool.PREFILL: [LONG_AGO_S] * 2, Pool.DECODE: [LONG_AGO_S, LONG_AGO_S, JUST_NOW_S]}
    seen = await ask(answers(RECORDED), ReadySince(routers=[LONG_AGO_S], engines=engines))
    assert [p.unscraped for p in seen.pools] == [2, 1]
    assert seen.unscraped_routers == 0


@pytest.mark.parametrize(("others", "missing", "sizes"), [([LONG_AGO_S], 1, 4), ([JUST_NOW_S], 0, 1), ([], 0, 1)])
async def test_an_unscraped_router_hides_demand(ask: Ask, others: list[float], missing: int, sizes: int) -> None:
    """One router of two is in the answer: what the other one got is unknown, and nothing shrinks."""
    idle = edited(lambda s: {**s, "values": [[t, "0"] for t, _ in s["values"]]} if is_load(s) else s)
    ready = ReadySince(routers=[LONG_AGO_S, *others], engines=SCRAPED.engines)
    seen = await ask(answers(idle), ready)
    assert seen.unscraped_routers == missing
    made, _ = plan(GOAL, seen, Memory(started_s=0.0, updated_s=NEWEST_S))
    assert [p.replicas for p in made.pools] == [sizes, sizes]


def is_load(series: dict[str, Any]) -> bool:
    gauges = (names.RUNNING, names.WAITING)
    return names.POOL not in series["metric"] or series["metric"]["__name__"] in gauges


async def test_waiting_tokens_absent_is_unknown(ask: Ask) -> None:
    assert (await ask(answers(without(names.WAITING_PROMPT_TOKENS)))).waiting_prompt_tokens is None


async def test_the_query_asks_only_for_names_that_are_read() -> None:
    queries = []

    async def handler(request: web.Request) -> web.Response:
        queries.append(str((await request.post())["query"]))
        return web.json_response(RECORDED)

    app = web.Application()
    app.router.add_post("/base/api/v1/query", handler)
    server = TestServer(app)
    await server.start_server()
    async with aiohttp.ClientSession() as session:
        door = Prometheus(str(server.make_url("/base/")), session)
        await observe(GOAL, SERVICE, door, POOLS, None, NEWEST_S)
        await observe(GOAL, SERVICE, door, POOLS, None, NEWEST_S)
    await server.close()
    assert queries[0] == f'{{__name__=~"{"|".join(NAMES)}",llmservice="ns/chat"}}[630s]'
    assert queries[1].endswith("[121s]"), "the window follows the scrape gap that was seen"


async def test_twelve_pods_take_less_than_a_third_of_a_second(ask: Ask) -> None:
    """12 engines x about 100 series x 40 samples, as read every 5 to 15 s."""
    engine = [s for s in RECORDED["data"]["result"] if names.POOL in s["metric"]]
    router = [s for s in RECORDED["data"]["result"] if names.POOL not in s["metric"]]

    def longer(s: dict[str, Any], pod: int) -> dict[str, Any]:
        values = [[NEWEST_S - 5.0 * (39 - k), str(30 + 7 * k)] for k in range(40)]
        return {"metric": {**s["metric"], "instance": f"10.0.0.{pod}:9400"}, "values": values}

    many = [longer(s, 99) for s in router] + [longer(s, pod) for pod in range(12) for s in engine]
    handler = says(json.dumps({"status": "success", "data": {"resultType": "matrix", "result": many}}))
    before = time.process_time()
    seen = await ask(handler)
    assert sum(s.steps for s in seen.pools[1].steps) > 0
    assert time.process_time() - before < 0.3
