"""Score and pick: the last two steps of routing, for one pool of engines. Pure; a draw is given."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol, TypeVar


class Policy(StrEnum):
    SHORTEST_QUEUE = "shortest-queue"
    RANDOM = "random"
    """Uniform over the usable endpoints, as the RAD paper (arXiv 2508.01002) assumes."""
    POWER_OF_TWO = "power-of-two"
    """The one with less work of two drawn ones (Mitzenmacher, 2001)."""
    PREFIX_AFFINITY = "prefix-affinity"
    """The shortest queue, counting only tokens of this prompt that the engine has not computed lately."""
    SESSION = "session"
    """The shortest queue, as if the engine of this session had the whole prompt in its cache."""

    @property
    def draws(self) -> bool:
        """The prompt's engine is drawn from all revisions; the work of whole pairs is not compared."""
        return self in (Policy.RANDOM, Policy.POWER_OF_TWO)


class Candidate(Protocol):
    """What is looked at of an engine."""

    @property
    def name(self) -> str: ...

    @property
    def work_tokens(self) -> float: ...

    @property
    def prompts(self) -> int: ...

    @property
    def prompt_tokens(self) -> float: ...


E = TypeVar("E", bound=Candidate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Prompts that an engine may hold before the next one waits elsewhere: fewer than `prompts`, or than `tokens`."""

    tokens: float = math.inf
    prompts: int = 1
    """At least one, however long it is."""

    def is_in(self, endpoint: Candidate) -> bool:
        return endpoint.prompts < self.prompts or endpoint.prompt_tokens < self.tokens


UNBOUNDED = Room()
STEPS_HELD = 2
"""Steps of prompts that a router gives to an engine before the next prompt waits in the router."""
Saved = Mapping[str, float]
"""Tokens of this prompt that the engine of that name need not compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """By which rule one request's engines are chosen. `saved` is for the engine that computes the prompt."""

    policy: Policy = Policy.SHORTEST_QUEUE
    draw: float = 0.0
    """In [0, 1)."""
    saved: Saved = field(default_factory=dict)
    room: Room = UNBOUNDED

    def for_answers(self) -> "Choice":
        """For the decode engine: another draw, no prompt to compute."""
        return replace(self, draw=_second(self.draw), saved={}, room=UNBOUNDED)

    def score(self, endpoint: Candidate) -> float:
        """Lower is better. Random routing scores all alike and leaves the choice to the draw."""
        if self.policy is Policy.RANDOM:
            return 0.0
        return endpoint.work_tokens - self.saved.get(endpoint.name, 0.0)


def pick(candidates: Sequence[E], choice: Choice) -> E:
    """The best score of all, or of two that are drawn; equals share uniformly by the draw."""
    if choice.policy is Policy.POWER_OF_TWO:
        candidates = _two(candidates, choice.draw)
    best = min(map(choice.score, candidates))
    equals = [e for e in candidates if choice.score(e) == best]
    return equals[min(int(choice.draw * len(equals)), len(equals) - 1)]


def _two(candidates: Sequence[E], draw: float) -> Sequence[E]:
    """Two different ones, every pair alike."""
    n = len(candidates)
    if n <= 2:
        return candidates
    one, step = int(draw * n), 1 + int(_second(draw) * (n - 1))
    return candidates[one], candidates[(one + step) % n]


def pick_with_room(candidates: Sequence[E], choice: Choice) -> E | None:
    """The best that has room. None: none has, or one without is so much better that waiting for it is less work."""
    free = [e for e in candidates if choice.room.is_in(e)]
    if not free:
        return None
    best = pick(free, choice)
    worth = [e for e in candidates if choice.saved.get(e.name) and choice.score(e) < choice.score(best)]
    return None if worth else best


def _second(draw: float) -> float:
    """A second draw out of the first, independent enough for a choice among a few engines."""
    return (draw * 7919.0) % 1.0
