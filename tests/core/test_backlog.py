"""The queue: order, lateness, the guard, groups; and that nothing is lost or doubled by any sequence of calls."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.backlog import Backlog
from llmservice_core.steps import Task
from tests.core.scenes import Named, names, prompt


def shortest(**options: object) -> Backlog[Task]:
    return Backlog(lambda t: (t.known,), **options)  # type: ignore[arg-type]


def filled(queue: Backlog[Task], *tasks: Task) -> Backlog[Task]:
    for task in tasks:
        queue.add(task)
    return queue


def test_order_first_and_oldest() -> None:
    queue = filled(shortest(), prompt("b", 9, waits=1), prompt("a", 5, waits=3), prompt("c", 9, waits=7))
    assert (names(list(queue)), names(queue.first(2)), len(queue)) == (["a", "b", "c"], ["a", "b"], 3)
    oldest = queue.oldest()
    assert oldest is not None
    queue.remove(oldest)
    assert names([queue.oldest() or prompt("", 1)]) == ["a"]


def test_late_ones_go_behind_and_overdue_ones_in_front_of_all_oldest_first() -> None:
    tasks = [
        prompt("late", 1, waits=2, ttft_s=1.0),
        prompt("overdue", 900, waits=70, ttft_s=1.0),
        prompt("older", 950, waits=80, ttft_s=75.0),
        prompt("fresh", 500, ttft_s=1.0),
    ]
    queue = filled(shortest(late_last=True, guard_s=60.0), *tasks)
    queue.advance(0.0)
    assert names(list(queue)) == ["older", "overdue", "fresh", "late"]
    queue.advance(1e9)
    assert names(list(queue)) == ["older", "overdue", "late", "fresh"]


def test_what_leads_stands_before_lateness() -> None:
    queue = filled(
        shortest(lead=lambda t: (t.priority,), late_last=True),
        prompt("late but urgent", 9, waits=5, ttft_s=1.0, priority=-1),
        prompt("in time", 1, ttft_s=1.0),
    )
    queue.advance(0.0)
    assert names(list(queue)) == ["late but urgent", "in time"]


def test_groups_are_merged_and_have_heads() -> None:
    rows = [prompt("a2", 4, tenant="a"), prompt("b1", 2, tenant="b"), prompt("a1", 1, tenant="a")]
    queue = filled(shortest(group=lambda t: t.tenant), *rows)
    assert names(list(queue)) == ["a1", "b1", "a2"]
    assert sorted(names(queue.heads())) == ["a1", "b1"]
    assert names(list(queue.of_group("a"))) == ["a1", "a2"]


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 100), st.sampled_from([None, 1.0, 50.0])), max_size=20),
    st.lists(st.tuples(st.sampled_from(["add", "remove", "advance"]), st.integers(0, 19)), max_size=60),
)
def test_any_sequence_keeps_every_request_once(
    rows: list[tuple[int, float, float | None]], calls: list[tuple[str, int]]
) -> None:
    tasks = [prompt(str(i), n + 1, waits=w, ttft_s=t, tenant=str(n % 2)) for i, (n, w, t) in enumerate(rows)]
    queue = shortest(group=lambda t: t.tenant, late_last=True, guard_s=30.0)
    inside: set[Named] = set()
    for call, i in calls:
        if call == "advance":
            queue.advance(float(i * 5 - 50))
        elif i < len(tasks) and (tasks[i] in inside) == (call == "remove"):
            (queue.add if call == "add" else queue.remove)(tasks[i])
            inside ^= {tasks[i]}
    assert sorted(names(list(queue))) == sorted(t.name for t in inside)
    assert len(queue) == len(inside)
    oldest = queue.oldest()
    assert (oldest.arrival_s if oldest else None) == min((t.arrival_s for t in inside), default=None)
