"""Wishes into limits: who gets the GPUs when there are too few, who waits, and who keeps what it has."""

from typing import Any

import pytest

from llmservice_core.model import Pool, PoolGoal, PoolSeen
from llmservice_core.planner_limits import Wish, fit

P, D = Pool.PREFILL, Pool.DECODE


def wish(pool: Pool, replicas: int, need: float | None = None, **changes: Any) -> Wish:
    state = {"desired": 1, "ready": 1, "starting": 0, "draining": 0, "unschedulable": 0, "recallable": 0}
    state |= {k: changes.pop(k) for k in list(changes) if k in state}
    limits = {"min_replicas": 1, "max_replicas": 9, "gpus_per_replica": 1}
    limits |= {k: changes.pop(k) for k in list(changes) if k in limits}
    return Wish(
        goal=PoolGoal(pool=pool, **limits),
        seen=PoolSeen(pool=pool, **state),
        replicas=replicas,
        needed=changes.pop("needed", replicas),
        need=float(replicas) if need is None else need,
        **changes,
    )


CASES = {
    "room for all": ([wish(P, 3), wish(D, 4)], 7, (3, 4)),
    "no budget": ([wish(P, 3), wish(D, 4)], None, (3, 4)),
    "the more loaded first": ([wish(P, 2, 1.2), wish(D, 6, 6.0)], 5, (1, 4)),
    "equal loads share": ([wish(P, 4), wish(D, 4)], 6, (3, 3)),
    "weight counts": ([wish(P, 4, weight=10.0), wish(D, 4)], 6, (4, 2)),
    "a replica that exists counts half as much again": (
        [wish(P, 4, 3.4, desired=3, ready=3), wish(D, 4, 4.0, desired=3, ready=3)],
        6,
        (3, 3),
    ),
    "but not at any load": ([wish(P, 3, 2.2, desired=3, ready=3), wish(D, 6, 6.0, desired=3, ready=3)], 6, (2, 3)),
    "held pods yield to need": (
        [wish(P, 4, 4.0, needed=1, desired=4, ready=4), wish(D, 4, 2.6, desired=2, ready=2)],
        6,
        (2, 2),
    ),
    "and grow again once those are gone": (
        [wish(P, 4, 4.0, needed=1, desired=2, ready=2), wish(D, 4, 2.6, desired=2, ready=2)],
        6,
        (2, 4),
    ),
    "a large replica that does not fit lets a small one in": (
        [wish(P, 3, gpus_per_replica=1), wish(D, 3, 9.0, gpus_per_replica=4)],
        7,
        (3, 1),
    ),
    "minima before loads": ([wish(P, 1, 0.1, min_replicas=3), wish(D, 9, 9.0)], 6, (3, 3)),
    "maximum": ([wish(P, 12), wish(D, 1)], None, (9, 1)),
    "a drain that may be taken back holds nothing for its own pool": (
        [wish(P, 1), wish(D, 5, desired=4, ready=4, draining=1, recallable=1)],
        6,
        (1, 5),
    ),
    "but for the other pool it does": (
        [wish(P, 2, 2.0), wish(D, 4, desired=4, ready=4, draining=1, recallable=1)],
        6,
        (1, 4),
    ),
    "growth beyond it waits for pods that really leave": (
        [wish(P, 1), wish(D, 6, desired=3, ready=3, draining=2, recallable=1)],
        6,
        (1, 4),
    ),
    "draining pods hold GPUs": (
        [wish(P, 2, desired=2, ready=2), wish(D, 4, desired=2, ready=2, draining=1)],
        6,
        (2, 3),
    ),
    "pods on their way hold GPUs": (
        [wish(P, 1, ready=1, starting=2, desired=3), wish(D, 4, desired=3, ready=3)],
        6,
        (1, 3),
    ),
    "never below the present size for leaving pods": (
        [wish(P, 2, desired=2, ready=2, draining=5), wish(D, 2, desired=2, ready=2)],
        4,
        (2, 2),
    ),
    "who finds no node waits for who does": (
        [wish(P, 4, 9.0, desired=4, ready=2, unschedulable=2), wish(D, 4, 4.0)],
        6,
        (2, 4),
    ),
    "unknown pods do not yield to need": (
        [wish(P, 4, 4.0, desired=2, ready=2), wish(D, 4, 4.0, desired=4, ready=4, keeps=True)],
        6,
        (2, 4),
    ),
    "nor to a heavier class": (
        [wish(P, 4, weight=10.0), wish(D, 4, desired=4, ready=4, keeps=True)],
        6,
        (2, 4),
    ),
    "what is kept may still grow": (
        [wish(P, 1), wish(D, 5, desired=4, ready=4, keeps=True)],
        6,
        (1, 5),
    ),
    "and ends at a lowered maximum": (
        [wish(P, 1), wish(D, 4, desired=4, ready=4, keeps=True, max_replicas=3)],
        6,
        (1, 3),
    ),
    "a lowered budget cuts what is kept, the fuller pool last": (
        [wish(P, 4, 2.0, desired=4, ready=4, keeps=True), wish(D, 4, 4.0, desired=4, ready=4, keeps=True)],
        6,
        (2, 4),
    ),
    "never under a minimum": (
        [wish(P, 4, min_replicas=3, desired=4, ready=4, keeps=True), wish(D, 4, desired=4, ready=4, keeps=True)],
        5,
        (3, 2),
    ),
    "a large replica that was cut makes room for small ones": (
        [
            wish(P, 3, desired=3, ready=3, keeps=True),
            wish(D, 2, desired=2, ready=2, gpus_per_replica=4, keeps=True),
        ],
        8,
        (3, 1),
    ),
    "but keeps what nobody else wants": (
        [wish(P, 6, 9.0, desired=4, ready=2, unschedulable=2), wish(D, 1)],
        6,
        (4, 1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fit(name: str) -> None:
    wishes, budget, sizes = CASES[name]
    got = fit(wishes, budget).sizes
    assert (got[P], got[D]) == sizes
