"""What the watches know after breaks, deletions that nobody saw, and kinds that do not exist."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from llmservice_operator import watches as watches_module
from llmservice_operator.errors import Expired, Gone, NotReady, OperatorError
from llmservice_operator.kinds import DEPLOYMENT, POD_MONITOR, SERVICE, Kind, name_of
from llmservice_operator.watches import Watches

KEY = "ns/chat"


def item(name: str, version: int, uid: str = "") -> dict[str, Any]:
    meta = {"name": name, "namespace": "ns", "uid": uid or name, "resourceVersion": str(version)}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta | {"labels": {"llmservice.dev/name": "chat"}, "managedFields": [{}]},
    }


class Script:
    """A cluster whose lists and watches are scripted: an exception is raised, the last list holds for ever."""

    def __init__(self, lists: list[list[dict[str, Any]] | OperatorError], events: list[Any] | None = None) -> None:
        self.lists, self.events = lists, events or []
        self.listed = 0

    async def list(self, kind: Kind, namespace: str | None, **_: str) -> tuple[list[dict[str, Any]], str]:
        answer = self.lists[min(self.listed, len(self.lists) - 1)] if kind is SERVICE else []
        if kind is POD_MONITOR:
            raise Gone("the server could not find the requested resource")
        if kind is SERVICE:
            self.listed += 1
        if isinstance(answer, OperatorError):
            raise answer
        return answer, "1"

    async def watch(self, kind: Kind, namespace: str | None, version: str, **_: str) -> AsyncIterator[Any]:
        while kind is SERVICE and self.events:
            event = self.events.pop(0)
            if isinstance(event, OperatorError):
                raise event
            yield event
        await asyncio.sleep(3600)


Follow = Callable[[Script, tuple[Kind, ...]], Awaitable[Watches]]


@pytest.fixture
def woken() -> list[str]:
    return []


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch, woken: list[str]) -> Any:
    """Runs the watches until nothing more happens."""
    monkeypatch.setattr(watches_module, "RETRY_S", 0.001)
    monkeypatch.setattr(watches_module, "RETRY_AT_MOST_S", 0.001)

    async def go(script: Any, kinds: tuple[Kind, ...] = (SERVICE,)) -> Watches:
        watches = Watches(script, kinds, (), woken.append)
        task = asyncio.create_task(watches.run())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return watches

    return go


def known(watches: Watches) -> list[str]:
    return sorted(name_of(found) for found in watches.of(SERVICE, KEY))


async def test_events_change_what_is_known_and_wake_the_service(follow: Any, woken: list[str]) -> None:
    events = [
        {"type": "ADDED", "object": item("b", 2)},
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "3"}}},
        {"type": "DELETED", "object": item("a", 4)},
    ]
    watches = await follow(Script([[item("a", 1)]], events))
    assert known(watches) == ["b"]
    assert woken == [KEY] * 3
    assert "managedFields" not in watches.of(SERVICE, KEY)[0]["metadata"]


@pytest.mark.parametrize("trouble", [NotReady("away"), Expired("too old")])
async def test_a_deletion_that_nobody_saw_is_noticed_by_the_next_list(
    follow: Any, woken: list[str], trouble: OperatorError
) -> None:
    watches = await follow(Script([[item("a", 1), item("b", 1)], [item("b", 1)]], [trouble]))
    assert known(watches) == ["b"]
    assert woken == [KEY, KEY]


async def test_nothing_is_synced_before_every_kind_was_listed(follow: Any) -> None:
    assert not (await follow(Script([NotReady("away")]), (SERVICE, DEPLOYMENT))).synced.is_set()
    assert (await follow(Script([NotReady("away"), []]), (SERVICE, DEPLOYMENT))).synced.is_set()


async def test_a_kind_that_the_cluster_does_not_know_holds_nothing_up(follow: Any) -> None:
    watches = await follow(Script([[item("a", 1)]]), (POD_MONITOR, SERVICE))
    assert watches.synced.is_set()
    assert not watches.exists(POD_MONITOR)
    assert watches.exists(SERVICE)


async def test_an_old_event_does_not_undo_what_we_wrote_since(follow: Any) -> None:
    watches = await follow(Script([[]]))
    watches.put(item("a", 5))
    watches.put(item("a", 4))
    assert [i["metadata"]["resourceVersion"] for i in watches.of(SERVICE, KEY)] == ["5"]


async def test_a_namesake_is_not_dropped_with_its_forerunner(follow: Any) -> None:
    watches = await follow(Script([[item("a", 5, uid="new")]]))
    watches.drop(item("a", 4, uid="old"))
    assert known(watches) == ["a"]


@pytest.mark.parametrize(
    ("then", "expected"),
    [(NotReady("away"), [0, 2, 4, 8, 16, 30]), (Expired("too old"), [0, 1, 2, 4, 8, 16])],
    ids=["errors", "nothing else"],
)
async def test_an_expired_watch_gets_one_quick_try_and_no_busy_loop(
    monkeypatch: pytest.MonkeyPatch, then: OperatorError, expected: list[float]
) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(3600 if len(waits) == 6 else 0)

    monkeypatch.setattr(watches_module.asyncio, "sleep", noted)
    task = asyncio.create_task(Watches(Script([Expired("too old"), then]), (SERVICE,), (), print).run())
    await sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert waits == expected
