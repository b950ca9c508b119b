"""Waiting requests in an order that a policy gives. Insertion and removal by bisection, so that a step never sorts."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from heapq import heappop, heappush, merge
from itertools import count, islice
from typing import Generic, Protocol, TypeVar

from llmservice_core.guard import Guard


class Waits(Protocol):
    arrival_s: float
    ttft_s: float | None
    is_overdue: bool

    @property
    def known(self) -> int: ...


T = TypeVar("T", bound=Waits)
Key = tuple[float, ...]
ON_TIME, LATE = 1.0, 2.0
OVERDUE = 0.0


class Rows(Generic[T]):
    """A sorted list whose first rows are taken without moving the others."""

    def __init__(self) -> None:
        self._rows: list[tuple[Key, int, T]] = []
        self._taken = 0

    def __len__(self) -> int:
        return len(self._rows) - self._taken

    def __iter__(self) -> Iterator[tuple[Key, int, T]]:
        return (self._rows[at] for at in range(self._taken, len(self._rows)))

    def add(self, row: tuple[Key, int, T]) -> None:
        insort(self._rows, row, lo=self._taken)

    def remove(self, row: tuple[Key, int, T]) -> None:
        at = bisect_left(self._rows, row, lo=self._taken)
        if at > self._taken:
            del self._rows[at]
            return
        self._taken += 1
        if self._taken > 64 and 2 * self._taken > len(self._rows):
            del self._rows[: self._taken]
            self._taken = 0


class Backlog(Generic[T]):
    """Smallest key first, then first added; in groups, whose lists are merged by key. `lead` stands before lateness.

    `late_last`: a request whose first token can no longer come in time goes behind all that still can (its target is
    missed already, the others' are not). `guard_s`: one that first-come order would have started so long ago goes
    before all others, oldest first (`Guard`). Both happen in `advance`, once per request: no scan.
    """

    def __init__(
        self,
        key: Callable[[T], Key],
        *,
        lead: Callable[[T], Key] = lambda _: (),
        group: Callable[[T], str] = lambda _: "",
        late_last: bool = False,
        guard_s: float | None = None,
    ) -> None:
        self._key, self._lead, self._group = key, lead, group
        self._late_last = late_last
        self._guard: Guard[T] | None = Guard(guard_s) if guard_s is not None else None
        self._lists: dict[str, Rows[T]] = {}
        self._entries: dict[T, tuple[Key, int, T]] = {}
        self._moments: list[tuple[float, int, T]] = []
        """When each becomes late."""
        self._count = count()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, task: object) -> bool:
        return task in self._entries

    def __iter__(self) -> Iterator[T]:
        lists = [rows for rows in self._lists.values() if len(rows)]
        rows = lists[0] if len(lists) == 1 else merge(*lists)
        return (row[2] for row in rows)

    def first(self, most: int) -> list[T]:
        return list(islice(self, most))

    def heads(self) -> list[T]:
        """The first of each group."""
        return [next(iter(rows))[2] for rows in self._lists.values() if len(rows)]

    def of_group(self, group: str) -> Iterator[T]:
        return (row[2] for row in self._lists.get(group, ()))

    def oldest(self) -> T | None:
        """The one whose client has waited longest. Looks at all: not for every step."""
        return min(self._entries, key=lambda task: task.arrival_s, default=None)

    def add(self, task: T) -> None:
        number = next(self._count)
        self._insert(task, number, OVERDUE if task.is_overdue else ON_TIME)
        if self._late_last and task.ttft_s is not None:
            heappush(self._moments, (task.arrival_s + task.ttft_s, number, task))
        if self._guard is not None:
            self._guard.came(task, task.known)

    def settled(self, task: T) -> None:
        """It has started, or left for good: it stands in nobody's way any more."""
        if self._guard is not None:
            self._guard.settled(task)

    def remove(self, task: T) -> None:
        entry = self._entries.pop(task)
        self._lists[self._group(task)].remove(entry)

    def advance(self, now_s: float) -> None:
        """Requests whose moment has come change their place."""
        while self._moments and self._moments[0][0] < now_s:
            _, number, task = heappop(self._moments)
            entry = self._entries.get(task)
            if entry is not None and entry[1] == number and not task.is_overdue:
                self._move(task, entry, LATE)
        for task in self._guard.due(now_s) if self._guard is not None else ():
            task.is_overdue = True
            entry = self._entries.get(task)
            if entry is not None:
                self._move(task, entry, OVERDUE)

    def _move(self, task: T, entry: tuple[Key, int, T], rank: float) -> None:
        self._lists[self._group(task)].remove(entry)
        self._insert(task, entry[1], rank)

    def _insert(self, task: T, number: int, rank: float) -> None:
        own = (task.arrival_s,) if rank == OVERDUE else self._key(task)
        entry = ((*self._lead(task), rank, *own), number, task)
        self._entries[task] = entry
        group = self._group(task)
        if group not in self._lists:
            self._lists[group] = Rows()
        self._lists[group].add(entry)
