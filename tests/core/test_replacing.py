"""A new revision in place of an old one: whole sequences for small pools, and laws for all of them."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.model import Pool
from llmservice_core.replacing import Scene, Side, Step, step

P, D = Pool.PREFILL, Pool.DECODE
Pair = tuple[int, int]


def sizes(pair: Pair) -> dict[Pool, int]:
    return dict(zip((P, D), pair, strict=True))


@dataclass
class Cluster:
    """Pods start and leave one step after they were asked to. Every `look` is what the operator would see."""

    wanted: Pair
    limit: int | None
    gpus: Pair = (1, 1)
    old: dict[Pool, int] = field(default_factory=dict)
    new: dict[Pool, int] = field(default_factory=lambda: sizes((0, 0)))
    ready: dict[Pool, int] = field(default_factory=lambda: sizes((0, 0)))
    leaving: dict[Pool, int] = field(default_factory=lambda: sizes((0, 0)))
    seen: list[tuple[Pair, Pair]] = field(default_factory=list)
    pauses: int = 0

    def __post_init__(self) -> None:
        self.old = self.old or sizes(self.wanted)

    def cost(self, replicas: dict[Pool, int]) -> int:
        return sum(n * g for n, g in zip((replicas[P], replicas[D]), self.gpus, strict=True))

    @property
    def held(self) -> int:
        return self.cost(self.new) + self.cost(self.old) + self.cost(self.leaving)

    def look(self) -> Step:
        gpus = sizes(self.gpus)
        return step(
            Scene(
                wanted=sizes(self.wanted),
                new=Side(replicas=self.new, gpus=gpus),
                new_ready=self.ready,
                old=Side(replicas=self.old, gpus=gpus),
                leaving_gpus=self.cost(self.leaving),
                limit=self.limit,
            )
        )

    def turn(self) -> None:
        made = self.look()
        self.ready, self.leaving = dict(self.new), {p: self.old[p] - made.old[p] for p in (P, D)}
        self.new, self.old = dict(made.new), dict(made.old)
        self.pauses += made.is_pause
        now = ((self.old[P], self.old[D]), (self.new[P], self.new[D]))
        if not self.seen or self.seen[-1] != now:
            self.seen.append(now)

    @property
    def is_complete(self) -> bool:
        return self.ready == sizes(self.wanted)

    def run(self) -> "Cluster":
        for _ in range(200):
            if self.is_complete:
                return self
            self.turn()
        raise AssertionError(f"never complete: {self.seen}")


SEQUENCES = [
    ("as many GPUs as it takes", Cluster((2, 2), None), [((2, 2), (2, 2))], False),
    ("a budget that holds both", Cluster((2, 2), 8), [((2, 2), (2, 2))], False),
    ("one pair more", Cluster((2, 2), 6), [((2, 2), (1, 1)), ((1, 1), (1, 1)), ((1, 1), (2, 2))], False),
    (
        "no GPU more",
        Cluster((2, 2), 4),
        [((1, 1), (0, 0)), ((1, 1), (1, 1)), ((0, 0), (1, 1)), ((0, 0), (2, 2))],
        False,
    ),
    ("one GPU more is half a pair", Cluster((2, 2), 5), [((1, 2), (0, 0)), ((1, 2), (1, 1)), ((0, 0), (1, 1))], False),
    ("a lone pair pauses", Cluster((1, 1), 2), [((0, 0), (0, 0)), ((0, 0), (1, 1))], True),
    ("a second prefill is no help", Cluster((1, 1), 3), [((0, 0), (0, 0)), ((0, 0), (1, 1))], True),
    (
        "decode pods make room, so that a prefill pod never has to",
        Cluster((1, 3), 4),
        [((1, 1), (0, 0)), ((1, 1), (1, 1)), ((0, 0), (1, 1)), ((0, 0), (1, 3))],
        False,
    ),
]


@pytest.mark.parametrize(("cluster", "expected", "pauses"), [s[1:] for s in SEQUENCES], ids=[s[0] for s in SEQUENCES])
def test_the_whole_sequence(cluster: Cluster, expected: list[tuple[Pair, Pair]], pauses: bool) -> None:
    cluster.run()
    assert cluster.seen[: len(expected)] == expected
    assert bool(cluster.pauses) == pauses


def test_a_new_revision_that_does_not_become_ready_takes_nothing_from_the_old_one() -> None:
    cluster = Cluster((2, 2), 6)
    for _ in range(5):
        cluster.turn()
        cluster.ready = sizes((0, 0))
    assert (cluster.old, cluster.new) == (sizes((2, 2)), sizes((1, 1)))


def test_a_service_that_sleeps_is_replaced_without_a_pod() -> None:
    made = Cluster((0, 0), 4, old=sizes((1, 1))).look()
    assert (dict(made.new), made.is_pause) == (sizes((0, 0)), False)


pairs = st.tuples(st.integers(1, 5), st.integers(1, 5))


@settings(deadline=None)
@given(pairs, st.integers(0, 12), st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_laws(wanted: Pair, spare: int, gpus: Pair) -> None:
    limit = sum(n * g for n, g in zip(wanted, gpus, strict=True)) + spare
    cluster = Cluster(wanted, limit, gpus)
    pair = sum(gpus)
    while not cluster.is_complete:
        before, was_ready = dict(cluster.old), dict(cluster.ready)
        again = cluster.look()
        assert again == cluster.look()
        cluster.turn()
        assert cluster.held <= limit
        given = cluster.cost(before) - cluster.cost(cluster.old)
        lone = min(cluster.old.values()) == 0
        assert lone or given < pair + max(gpus), "no more than one set, rounded up to whole pods"
        assert (cluster.new[P] > 0) == (cluster.new[D] > 0)
        assert (cluster.old[P] > 0) == (cluster.old[D] > 0)
        serves = min(cluster.old.values()) > 0 or min(was_ready.values()) > 0
        assert serves or again.is_pause
        # Where the old one can shrink to one set beside a new one, nothing ever pauses.
        assert serves or 2 * pair > limit
        assert len(cluster.seen) < 100
