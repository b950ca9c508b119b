"""Virtual time: what happens next. Equal times keep the order in which they were asked for. No clock, no chance."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Agenda:
    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, time_s: float, happen: Callable[[], None]) -> None:
        """Not before now: what is late happens at once."""
        self._count += 1
        heapq.heappush(self._heap, (max(time_s, self.now_s), self._count, happen))

    def after(self, delay_s: float, happen: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, happen)

    @property
    def is_empty(self) -> bool:
        return not self._heap

    def step(self) -> None:
        self.now_s, _, happen = heapq.heappop(self._heap)
        happen()
