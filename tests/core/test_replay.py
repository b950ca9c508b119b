"""From where a replay begins, and what it leaves alone."""

import pytest

from llmservice_core.planner_memory import Memory
from llmservice_core.replay import MOST_PLANS, begin_s, replayed
from tests.conformance.world import goal

NOW_S = 10_000.0


@pytest.mark.parametrize(
    ("updated_s", "start_up_s", "since_s", "expected_s"),
    [
        (9_950.0, 45.0, 0.0, 9_950.0),
        (1_000.0, 45.0, 0.0, NOW_S - 225.0),
        (1_000.0, 600.0, 0.0, NOW_S - 990.0),
        (1_000.0, None, 0.0, NOW_S - 270.0),
        (None, 45.0, 9_900.0, 9_900.0),
        (None, 45.0, 0.0, NOW_S - 225.0),
    ],
)
def test_where_it_begins(updated_s: float | None, start_up_s: float | None, since_s: float, expected_s: float) -> None:
    """After the memory's last plan, no further back than windows look, and never before the service was made."""
    memory = None if updated_s is None else Memory(started_s=0.0, updated_s=updated_s)
    assert begin_s(goal(), memory, start_up_s, NOW_S, since_s) == expected_s


def test_without_samples_the_memory_stays() -> None:
    memory = Memory(started_s=0.0, updated_s=1_000.0)
    assert replayed(goal(), [], (), None, memory, NOW_S - 300.0, NOW_S) is memory
    assert replayed(goal(), [], (), None, None, NOW_S - 300.0, NOW_S) is None


def test_a_long_time_takes_no_more_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr("llmservice_core.replay.observed", lambda *given: asked.append(given[-1]))
    replayed(goal(), [], (), 1_800.0, None, NOW_S - 3_000.0, NOW_S)
    assert len(asked) == MOST_PLANS
    assert asked == sorted(asked)
    assert asked[-1] < NOW_S, "the plan at that time is still to be made"
