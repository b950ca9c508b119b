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


def test_order_and_first() -> None:
    queue = filled(shortest(), prompt("b", 9, waits=1), prompt("a", 5, waits=3), prompt("c", 9, waits=7))
    assert (names(list(queue)), names(queue.first(2)), len(queue)) == (["a", "b", "c"], ["a", "b"], 3)


def test_the_head_can_be_taken_many_times() -> None:
    queue = filled(shortest(), *(prompt(f"{n:03}", n) for n in range(1, 301)))
    taken = []
    for _ in range(250):
        (head,) = queue.first(1)
        queue.remove(head)
        taken.append(head)
    queue.add(prompt("new", 260))
    assert names(taken) == [f"{n:03}" for n in range(1, 251)]
    assert names(queue.first(11))[-2:] == ["260", "new"]
    assert len(queue) == 51


def test_late_ones_go_behind() -> None:
    queue = filled(shortest(late_last=True), prompt("late", 1, waits=2, ttft_s=1.0), prompt("fresh", 500, ttft_s=1.0))
    assert names(list(queue)) == ["late", "fresh"]
    queue.advance(0.0)
    assert names(list(queue)) == ["fresh", "late"]
    queue.advance(1e9)
    assert names(list(queue)) == ["late", "fresh"], "both are late now"


class TestGuard:
    """Patience 60 s. Whoever starts, starts tokens: when as many have started as came before a request, first come,
    first served would have started it."""

    def start(self, queue: Backlog[Task], task: Task) -> None:
        queue.remove(task)
        queue.settled(task)

    def test_overdue_ones_go_in_front_of_all_oldest_first(self) -> None:
        long, longer, later = (
            prompt("long", 900, waits=9),
            prompt("longer", 950, waits=8),
            prompt("later", 800, waits=7),
        )
        short = [prompt(f"s{i}", 450, waits=5) for i in range(4)]
        queue = filled(shortest(late_last=True, guard_s=60.0), long, longer, later, *short)
        queue.advance(0.0)
        for task in short[:2]:
            self.start(queue, task)
        queue.advance(1.0)  # 900 tokens have started: first come, first served would have started long and longer
        queue.advance(60.5)
        assert names(queue.first(2)) == ["long", "s2"], "long was the first in line from the beginning"
        queue.advance(61.5)
        assert names(list(queue)) == ["long", "longer", "s2", "s3", "later"]
        assert longer.is_overdue
        assert not later.is_overdue

    def test_who_comes_back_keeps_its_place_in_the_line(self) -> None:
        first, second = prompt("first", 900), prompt("second", 100)
        queue = filled(shortest(guard_s=60.0), first, second)
        for _ in range(3):  # as an engine does with a request that is blocked
            queue.remove(first)
            queue.add(first)
        queue.advance(0.0)
        queue.advance(61.0)
        assert names(list(queue)) == ["first", "second"]

    def test_who_left_stands_in_nobodys_way(self) -> None:
        gone, second, short = prompt("gone", 900), prompt("second", 800), prompt("short", 1)
        queue = filled(shortest(guard_s=60.0), gone, second, short)
        self.start(queue, gone)
        queue.advance(0.0)
        queue.advance(61.0)
        assert names(list(queue)) == ["second", "short"]


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
