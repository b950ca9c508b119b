"""Tells a person what is being done and how long the rest will take.

Estimates are the times measured on two cores with empty caches (README); a step that is not needed is never
announced.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

REMINDER_S = 30.0
LEAST_LEFT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One piece of work that a person waits for, and how long it takes when nothing is cached."""

    title: str
    cold_s: float


@dataclass(slots=True)
class Progress:
    """Prints a line when a step begins, while it lasts and when it ends; `steps` is all that will happen."""

    steps: Sequence[Step]
    out: TextIO = field(default_factory=lambda: sys.stderr)
    reminder_s: float = REMINDER_S
    _done: int = 0

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        """Announce `step` with what is left from here on, do it, and tell how long it took."""
        name = f"step {self._done + 1} of {len(self.steps)}"
        self._say(f"{name}: {step.title} ({self.left(0)} left)")
        began_s, over = time.monotonic(), threading.Event()
        reminder = threading.Thread(target=self._remind, args=(name, began_s, over), daemon=True)
        reminder.start()
        try:
            yield
        finally:
            over.set()
            reminder.join()
        self._done += 1
        self._say(f"{name}: done in {in_words(time.monotonic() - began_s)}")

    def left(self, spent_s: float) -> str:
        """What this step and all behind it take, `spent_s` into this step."""
        now, *later = (step.cold_s for step in self.steps[self._done :])
        return f"about {in_words(max(now - spent_s, LEAST_LEFT_S) + sum(later))}"

    def _remind(self, name: str, began_s: float, over: threading.Event) -> None:
        while not over.wait(self.reminder_s):
            spent_s = time.monotonic() - began_s
            self._say(f"{name}: {in_words(spent_s)} so far ({self.left(spent_s)} left)")

    def _say(self, line: str) -> None:
        print(line, file=self.out, flush=True)


def in_words(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds >= 100:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
