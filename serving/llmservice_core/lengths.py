"""How long an answer will be: an interface, and the two predictors that need no model."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from llmservice_core.steps import Task


class LengthPredictor(Protocol):
    def tokens(self, task: Task) -> float | None:
        """Expected tokens of the answer; None: unknown."""
        ...

    def saw(self, task: Task, tokens: int) -> None:
        """An answer has ended, with so many tokens."""
        ...


class Oracle:
    """What the request itself says (`Task.expected_output`): the simulator's truth, or a limit that a client set."""

    def tokens(self, task: Task) -> float | None:
        return task.expected_output

    def saw(self, task: Task, tokens: int) -> None:
        """It knew."""


class ClassHistory:
    """Mean of the last answers of the same class whose prompts were about as long; of all classes while one is new."""

    def __init__(self, memory: int = 256, fewest: int = 8) -> None:
        self._memory, self._fewest = memory, fewest
        self._seen: dict[tuple[str, int], deque[int]] = {}
        self._all: deque[int] = deque(maxlen=memory)

    def tokens(self, task: Task) -> float | None:
        rows = self._seen.get(self._bin(task), ())
        rows = rows if len(rows) >= self._fewest else self._all
        return sum(rows) / len(rows) if rows else None

    def saw(self, task: Task, tokens: int) -> None:
        self._all.append(tokens)
        self._seen.setdefault(self._bin(task), deque(maxlen=self._memory)).append(tokens)

    def _bin(self, task: Task) -> tuple[str, int]:
        """Prompts within a factor of two of each other."""
        return (task.service_class, task.prompt_tokens.bit_length())
