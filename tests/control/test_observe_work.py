"""What pods still have to do, from what routers and engines say; over HTTP, and where somebody says nothing."""

from typing import Any

import aiohttp
import pytest
from aiohttp import web

from llmservice_core import draining
from llmservice_core.draining import Work
from llmservice_core.model import Calls
from llmservice_operator import observe_work
from llmservice_operator.observe_work import parse_numbers, work
from tests.serving.router_fake_api import served

EXPOSED = """# HELP llmservice_engine_running Requests that hold a place
# TYPE llmservice_engine_running gauge
llmservice_engine_running{llmservice="ns/chat",phase="prefill",pool="decode"} 1.0
llmservice_engine_running{llmservice="ns/chat",phase="decode",pool="decode"} 2.0
llmservice_engine_waiting{llmservice="ns/chat",pool="decode"} 4.0
llmservice_engine_unpulled_kv_blocks{llmservice="ns/chat",pool="decode"} 8.0
llmservice_engine_steps_total{kind="decode"} 9.0
"""
NUMBERS = parse_numbers(EXPOSED)
IDLE = dict.fromkeys(NUMBERS, 0.0)


def fleet(state: str = "draining", in_flight: int = 0, work_tokens: float = 0.0) -> dict[str, Any]:
    return {"a": {"state": state, "in_flight": in_flight, "work_tokens": work_tokens}}


def test_what_an_engine_exposes() -> None:
    assert {k.removeprefix("llmservice_engine_"): v for k, v in NUMBERS.items()} == {
        "running": 3.0,
        "waiting": 4.0,
        "unpulled_kv_blocks": 8.0,
    }


CASES: dict[str, tuple[Any, Any, Work]] = {
    "idle": ([fleet()], IDLE, Work(requests=0, tokens=0, unpulled_blocks=0, is_avoided=True)),
    "no router runs": ([], IDLE, Work(requests=0, tokens=0, unpulled_blocks=0, is_avoided=True)),
    "a router that never knew it": ([{}], IDLE, Work(requests=0, tokens=0, unpulled_blocks=0, is_avoided=True)),
    "streams of a router that is gone": (
        [fleet()],
        NUMBERS,
        Work(requests=7, tokens=0, unpulled_blocks=8, is_avoided=True),
    ),
    "places held while the prompt is elsewhere": (
        [fleet(in_flight=2, work_tokens=30.0), fleet(in_flight=1, work_tokens=10.0)],
        IDLE,
        Work(requests=3, tokens=40.0, unpulled_blocks=0, is_avoided=True),
    ),
    "a router that still sends": (
        [fleet(), fleet("ready")],
        IDLE,
        Work(requests=0, tokens=0, unpulled_blocks=0, is_avoided=False),
    ),
    "a router that is silent": (
        [fleet(), None],
        IDLE,
        Work(requests=None, tokens=None, unpulled_blocks=0, is_avoided=False),
    ),
    "an engine that is silent": (
        [fleet(in_flight=1)],
        None,
        Work(requests=None, tokens=0, unpulled_blocks=None, is_avoided=True),
    ),
}


@pytest.mark.parametrize(("fleets", "numbers", "found"), CASES.values(), ids=CASES.keys())
def test_what_is_known_together(fleets: Any, numbers: Any, found: Work) -> None:
    assert work("a", fleets, numbers) == found
    assert found.is_over == (found == Work(requests=0, tokens=0, unpulled_blocks=0, is_avoided=True))


def test_an_engine_that_leaves_a_number_out_is_unknown() -> None:
    assert work("a", [fleet()], {k: v for k, v in IDLE.items() if "waiting" not in k}).requests is None


def pod(name: str, ip: str | None = "127.0.0.1") -> Any:
    return {"metadata": {"name": name}, "status": {"podIP": ip, "containerStatuses": [{"state": {"running": {}}}]}}


async def asked(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any]) -> Work:
    async def answer(request: web.Request) -> web.Response:
        given = answers[request.path]
        return given if isinstance(given, web.Response) else web.json_response(given)

    async with served(answer) as url, aiohttp.ClientSession() as http:
        port = int(url.rsplit(":", 1)[1])
        monkeypatch.setattr(observe_work, "PORT_ENGINE_METRICS", port)
        monkeypatch.setattr(observe_work, "PORT_ROUTER_METRICS", port)
        (found,) = await observe_work.works(http, [pod("a")], [pod("router")])
        return found


async def test_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"/metrics": web.Response(text=EXPOSED), "/fleet": fleet(in_flight=9, work_tokens=5.0)}
    assert await asked(monkeypatch, said) == Work(requests=9, tokens=5.0, unpulled_blocks=8, is_avoided=True)


WRONG = [web.Response(status=503), web.Response(text="<html>"), web.Response(body=b"\xff\xfe")]


@pytest.mark.parametrize("wrong", WRONG, ids=["refused", "no JSON", "no text"])
async def test_wrong_answers_are_unknown(monkeypatch: pytest.MonkeyPatch, wrong: web.Response) -> None:
    said = {"/metrics": web.Response(text=EXPOSED), "/fleet": wrong}
    assert (await asked(monkeypatch, said)).requests is None


async def test_nobody_at_the_address_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe_work, "PORT_ENGINE_METRICS", 9)
    monkeypatch.setattr(observe_work, "PORT_ROUTER_METRICS", 9)
    async with aiohttp.ClientSession() as http:
        found = await observe_work.works(http, [pod("a"), pod("b", ip=None)], [pod("router")])
    assert found == [draining.UNKNOWN, draining.UNKNOWN]


def router_pod(name: str) -> Any:
    made = pod(name)
    made["metadata"]["labels"] = {"llmservice.dev/component": "router"}
    return made


async def calls_of(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> Calls | None:
    """One router for each answer; they are asked in this order."""
    left = list(answers)

    async def answer(request: web.Request) -> web.Response:
        given = left.pop(0)
        return given if isinstance(given, web.Response) else web.json_response(given)

    async with served(answer) as url, aiohttp.ClientSession() as http:
        monkeypatch.setattr(observe_work, "PORT_ROUTER_METRICS", int(url.rsplit(":", 1)[1]))
        return await observe_work.calls(http, [pod("an-engine"), *(router_pod(f"r{i}") for i in range(len(answers)))])


def said(quiet_s: float, last_s: float | None = None, waiting: int = 0) -> dict[str, Any]:
    return {"quiet_s": quiet_s, "last_s": last_s, "waiting": waiting}


async def test_calls_of_all_routers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await calls_of(monkeypatch, said(400.0, 400.0), said(30.0), said(90.0, 90.0))
    assert found == Calls(quiet_s=30.0, last_s=90.0, waiting=0)
    assert await calls_of(monkeypatch, said(50.0)) == Calls(quiet_s=50.0, last_s=None, waiting=0)
    assert await calls_of(monkeypatch, said(0.0, 0.0, 2), said(0.0, 0.0, 1)) == Calls(
        quiet_s=0.0, last_s=0.0, waiting=3
    )


@pytest.mark.parametrize("wrong", [*WRONG, {"quiet_s": None}, {}, []], ids=str)
async def test_a_router_that_does_not_say_makes_calls_unknown(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    assert await calls_of(monkeypatch, said(400.0), wrong) is None
    assert await calls_of(monkeypatch) is None
