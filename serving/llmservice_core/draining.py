"""Which pods of a pool leave when it shrinks, and when each of them may go. Pure: no clock, no I/O.

Level-triggered: a drain is what stands on the pods, so every call starts from them alone and may be the first one of a
new operator. Laws: as many pods stay as the pool is to have; a pod that serves goes only when none that does not is
left; what is unknown never counts as finished; calling again with the same pods decides nothing new.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SETTLE_S: Final = 2.0
"""Routers see the mark within a second; what they sent before needs a moment to show in an engine's numbers."""


class Why(StrEnum):
    """Why a pod may go."""

    NOT_STARTED = "NotStarted"
    """No engine listens in it, so it has served nobody."""
    FINISHED = "Finished"
    DEADLINE = "DeadlineOver"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a pod still has to do. None: somebody who must be asked did not answer."""

    requests: int | None = None
    """In the engine, or on their way there in a router."""
    tokens: float | None = None
    """Predicted by the routers; only to compare pods."""
    unpulled_blocks: int | None = None
    """KV blocks of finished prompts that no decode engine has pulled."""
    is_avoided: bool = False
    """Every router has seen that it gets nothing new."""

    @property
    def is_over(self) -> bool:
        return self.is_avoided and self.requests == 0 and self.unpulled_blocks == 0


UNKNOWN: Final = Work()


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupant:
    """A pod that is not being deleted. `since_s`: when its drain began, None while it has none."""

    name: str
    serves: bool
    """Ready."""
    is_started: bool = True
    since_s: float | None = None
    is_released: bool = False
    """It was decided that it may go: it is the first that Kubernetes takes."""
    work: Work = UNKNOWN

    @property
    def is_draining(self) -> bool:
        return self.since_s is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drains:
    """What to write on pods, and how many pods the pool needs beyond its size until then."""

    begin: tuple[Occupant, ...] = ()
    release: tuple[tuple[Occupant, Why], ...] = ()
    take_back: tuple[Occupant, ...] = ()
    held: int = 0


def decide(pods: Sequence[Occupant], size: int, *, may_begin: bool, now_s: float, deadline_s: float) -> Drains:
    """For a pool that is to have `size` pods. `may_begin` False: drains go on or are taken back, none is begun."""
    leaving = [p for p in victims(pods, size) if may_begin or p.is_draining]
    names = {p.name for p in leaving}
    ends = ((p, may_go(p, now_s, deadline_s)) for p in leaving if p.is_draining and not p.is_released)
    return Drains(
        begin=tuple(p for p in leaving if not p.is_draining),
        release=tuple((p, why) for p, why in ends if why is not None),
        take_back=tuple(p for p in pods if p.is_draining and p.name not in names),
        held=sum(not p.is_released for p in leaving),
    )


def victims(pods: Sequence[Occupant], size: int) -> list[Occupant]:
    """Those that are too many. First what serves nobody, as Kubernetes would choose, too; then the drains that are
    under way, the furthest first; then the fewest tokens still to serve, the unknown last."""
    return sorted(pods, key=_order)[: max(0, len(pods) - size)]


def _order(pod: Occupant) -> tuple[bool, bool, bool, float, str]:
    tokens = pod.work.tokens
    return pod.serves, not pod.is_released, not pod.is_draining, float("inf") if tokens is None else tokens, pod.name


def may_go(pod: Occupant, now_s: float, deadline_s: float) -> Why | None:
    """Why a draining pod may be deleted; None while it may not."""
    if pod.since_s is None:
        return None
    if not pod.is_started:
        return Why.NOT_STARTED
    if pod.work.is_over and now_s - pod.since_s >= SETTLE_S:
        return Why.FINISHED
    return Why.DEADLINE if is_over(pod.since_s, now_s, deadline_s) else None


def is_over(since_s: float | None, now_s: float, deadline_s: float) -> bool:
    """The time that a pod has for its requests. The same for the operator, who lets it go then, and for the routers,
    who take what it still has to another one."""
    return since_s is not None and now_s - since_s >= deadline_s


def replicas(size: int, written: int, held: int) -> int:
    """What to ask Kubernetes for: never more than is there only because pods drain."""
    return size + min(held, max(0, written - size))
