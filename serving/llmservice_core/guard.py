"""A bound on waiting, for orders that let some requests pass others: nobody starts long after first-come order would.

The promise is relative: under overload the waits of every order grow. Position in the line: the tokens of all that came
before. At the pace at which requests are really started, first come, first served would have started a request as soon
as so many tokens have started, whoever's they were. `patience_s` after that moment it is overdue.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Guard(Generic[T]):
    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._came = self._settled = 0.0
        self._weights: dict[T, float] = {}
        """Of those that have neither started nor left."""
        self._line: deque[tuple[float, T]] = deque()
        """With the tokens before each, in the order of coming."""
        self._passed: deque[tuple[float, T]] = deque()
        """With the moment from which on first come, first served would have started it."""

    def came(self, task: T, tokens: float) -> None:
        """It waits; a request that came back into the line keeps its place in it."""
        if task not in self._weights:
            self._line.append((self._came, task))
            self._weights[task] = tokens
            self._came += tokens

    def settled(self, task: T) -> None:
        """It has started, or left for good."""
        self._settled += self._weights.pop(task, 0.0)

    def due(self, now_s: float) -> list[T]:
        """Those that have become overdue since the last time."""
        while self._line and self._line[0][0] <= self._settled:
            _, task = self._line.popleft()
            if task in self._weights:
                self._passed.append((now_s, task))
        found = []
        while self._passed and self._passed[0][0] + self._patience_s < now_s:
            _, task = self._passed.popleft()
            if task in self._weights:
                found.append(task)
        return found
