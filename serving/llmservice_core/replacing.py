"""How far a new revision may start and an old one give way, within so many GPUs. Pure: no clock, no I/O.

Level-triggered, from counts alone: called again with the same counts it says the same. Laws: never more GPUs than the
limit because of us; the first engines of a revision start together, one in each pool, for pools of two revisions never
pair; the old one gives up no more than one such set at a time, and nothing while a pod of either is on its way; unless
the limit holds no second set, one of them serves at any time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llmservice_core.model import Pool

Sizes = Mapping[Pool, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One revision, or all earlier ones: replicas that are to stay as of now, and the GPUs of one of them."""

    replicas: Sizes
    gpus: Sizes

    @property
    def held(self) -> int:
        return sum(count * self.gpus[pool] for pool, count in self.replicas.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """`wanted`: sizes that were decided. `leaving_gpus`: of earlier pods that are on their way out and still hold some.

    `limit` None: as many GPUs as it takes.
    """

    wanted: Sizes
    new: Side
    new_ready: Sizes
    old: Side
    leaving_gpus: int
    limit: int | None
    homeless: int = 0
    """Pods of the new revision that find no node, not counted in `new`: they go before room is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Replicas to ask for. `is_pause`: neither revision serves until the new one does."""

    new: Sizes
    old: Sizes
    is_pause: bool = False


def step(scene: Scene) -> Step:
    """The next one; what is complete asks for nothing more."""
    if scene.limit is None or (not any(scene.old.replicas.values()) and not scene.leaving_gpus):
        old = dict(scene.old.replicas)
        return Step(new=dict(scene.wanted), old=old, is_pause=_is_pause(scene, old))
    free = scene.limit - scene.new.held - scene.old.held - scene.leaving_gpus
    new = _grown(scene, free)
    old = dict(scene.old.replicas)
    is_whole = all(new[pool] >= size for pool, size in scene.wanted.items())
    if not is_whole and not _is_under_way(scene, new):
        old = _given_up(scene, free)
    return Step(new=new, old=old, is_pause=_is_pause(scene, old))


def _grown(scene: Scene, free: int) -> dict[Pool, int]:
    """As many as fit: first one in each pool or none, then where the smallest share of the wanted is there."""
    cost, wanted = scene.new.gpus, scene.wanted
    new = {pool: min(scene.new.replicas.get(pool, 0), size) for pool, size in wanted.items()}
    first = [pool for pool, size in wanted.items() if size > 0 and new[pool] == 0]
    need = sum(cost[pool] for pool in first)
    if need > free:
        return new
    new |= dict.fromkeys(first, 1)
    free -= need
    while fitting := [p for p, size in wanted.items() if new[p] < size and cost[p] <= free]:
        pool = min(fitting, key=lambda p: (new[p] / wanted[p], p))
        new[pool] += 1
        free -= cost[pool]
    return new


def _is_under_way(scene: Scene, new: Sizes) -> bool:
    """A pod of either revision has still to come or to go."""
    is_coming = any(count > scene.new_ready.get(pool, 0) for pool, count in new.items())
    return is_coming or scene.leaving_gpus > 0 or scene.homeless > 0


def _given_up(scene: Scene, free: int) -> dict[Pool, int]:
    """Fewer old ones, so that one new engine more fits in each pool that lacks one. Half a set is no use to anybody."""
    need = sum(scene.new.gpus[p] for p, size in scene.wanted.items() if scene.new.replicas.get(p, 0) < size) - free
    old, gpus = dict(scene.old.replicas), scene.old.gpus
    while need > 0 and (spare := [pool for pool, count in old.items() if count > 1]):
        pool = max(spare, key=lambda p: (old[p], p))
        old[pool] -= 1
        need -= gpus[pool]
    return old if need <= 0 else dict.fromkeys(old, 0)


def _is_pause(scene: Scene, old: Sizes) -> bool:
    awake = [pool for pool, size in scene.wanted.items() if size > 0]
    new_serves = all(scene.new_ready.get(pool, 0) > 0 for pool in awake)
    return bool(awake) and not new_serves and not (old and all(old.values()))
