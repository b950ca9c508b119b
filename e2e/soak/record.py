"""What a soak has seen, put into windows and judged. Pure: answers and times come from elsewhere."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from e2e.chain.streams import Answer, Outcome

BROKEN_WITHIN_S = 5.0
"""After a router was killed: its connections end with it, and a client hears of that at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A router's SIGKILL was sent between these two times."""

    before_s: float
    after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One fault and the quiet time behind it. Monotonic seconds. `well_s` None: the service was not whole again."""

    kind: str
    what: str
    began_s: float
    ended_s: float
    well_s: float | None
    problem: str = ""
    counters: Mapping[str, float] = field(default_factory=dict)
    """By how much counters of the routers grew in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Answers that ended in one window. `with_router`: on a router that was killed, the one loss that is no fault."""

    whole: int = 0
    failed: int = 0
    cut: int = 0
    altered: int = 0
    with_router: int = 0
    reconnects: int = 0
    longest_gap_s: float | None = None

    @property
    def lost(self) -> int:
        return self.failed + self.cut + self.altered

    @property
    def answers(self) -> int:
        return self.whole + self.lost + self.with_router


def died_with_its_router(answer: Answer, kills: Iterable[Kill]) -> bool:
    """Its connection broke off while it was open at the time of a kill. An error event or a status is a router's own
    word, so the router lived, and the loss is one."""
    return answer.is_broken and any(
        answer.began_s <= kill.after_s and kill.before_s <= answer.ended_s <= kill.after_s + BROKEN_WITHIN_S
        for kill in kills
    )


def tally(answers: Iterable[Answer], kills: Sequence[Kill]) -> Tally:
    counts: Counter[str] = Counter()
    gaps: list[float] = []
    reconnects = 0
    for answer in answers:
        counts["with_router" if died_with_its_router(answer, kills) else answer.outcome.value] += 1
        reconnects += answer.reconnects
        gaps += [] if answer.gap_s is None else [answer.gap_s]
    longest = max(gaps, default=None)
    return Tally(**counts, reconnects=reconnects, longest_gap_s=longest)


def ended_in(answers: Iterable[Answer], window: Window) -> list[Answer]:
    return [a for a in answers if window.began_s <= a.ended_s < window.ended_s]


def losses(answers: Iterable[Answer], kills: Sequence[Kill]) -> list[Answer]:
    """All that should not have happened."""
    return [a for a in answers if a.outcome is not Outcome.WHOLE and not died_with_its_router(a, kills)]


def by_kind(windows: Iterable[Window]) -> dict[str, list[Window]]:
    kinds: dict[str, list[Window]] = {}
    for window in windows:
        kinds.setdefault(window.kind, []).append(window)
    return kinds
