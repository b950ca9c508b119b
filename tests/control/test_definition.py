"""Waiting for the definition and noticing its loss, against scripted answers of discovery."""

import asyncio
from typing import Any

import pytest

from llmservice_operator import definition
from llmservice_operator.errors import NotReady


class Discovery:
    """Answers one after the other, the last one for ever; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), 0

    async def serves(self, kind: object) -> bool:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition, "WAIT_S", 0.0)
    monkeypatch.setattr(definition, "LOOK_S", 0.0)


async def test_it_waits_through_absence_and_an_api_server_that_is_away() -> None:
    discovery = Discovery(False, NotReady("away"), False, True)
    await asyncio.wait_for(definition.until_served(discovery), 5)  # type: ignore[arg-type]
    assert discovery.asked == 4


async def test_an_api_server_that_is_away_has_lost_nothing() -> None:
    discovery = Discovery(True, NotReady("away"), True, False)
    await asyncio.wait_for(definition.until_lost(discovery), 5)  # type: ignore[arg-type]
    assert discovery.asked == 4
