"""Score and pick: policies, room, what caches save; and the memory of prefixes behind it. Tables, then laws."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.affinity import BLOCK_BYTES, MOST_BLOCKS, PrefixMemory, of_session, text_blocks, token_blocks
from llmservice_core.model import Pool
from llmservice_core.picking import Policy, Room
from llmservice_core.routing import Endpoint, NoRoute, Route, RouteReason, choose

LAW = settings(deadline=None, max_examples=80)


def engine(name: str, work: float = 0.0, *, prompts: int = 0, revision: str = "a") -> Endpoint:
    """p1 is a prefill engine, d1 a decode engine, m1 a mixed one; all of its work is prompts."""
    pool = {"p": Pool.PREFILL, "d": Pool.DECODE, "m": Pool.MIXED}[name[0]]
    held = work if prompts else 0.0
    return Endpoint(
        name=name, url="", pool=pool, revision=revision, work_tokens=work, prompts=prompts, prompt_tokens=held
    )


def names(route: Route | NoRoute) -> str:
    if isinstance(route, NoRoute):
        return route.reason.value
    return f"{route.prefill.name if route.prefill else '-'} {route.decode.name}"


ROOM = Room(tokens=4096)
FULL = {"prompts": 2}
CASES = {
    "an engine with too many prompts gets no more": ([engine("m1", 5000, **FULL), engine("m2", 9000)], {}, "- m2"),
    "one short of it does": ([engine("m1", 4095, **FULL), engine("m2", 9000)], {}, "- m1"),
    "one prompt is always allowed": ([engine("m1", 0.0)], {}, "- m1"),
    "all full": ([engine("m1", 5000, **FULL), engine("m2", 6000, **FULL)], {}, "Full"),
    "a full prefill engine": (
        [engine("p1", 5000, **FULL), engine("p2", 90), engine("d1")],
        {},
        "p2 d1",
    ),
    "decode engines have room for answers whatever prompts they hold": (
        [engine("p1"), engine("d1", 9000, **FULL)],
        {},
        "p1 d1",
    ),
    "a revision whose prefill engines are full": (
        [
            engine("p1", 5000, **FULL),
            engine("d1"),
            engine("p2", 9, revision="b"),
            engine("d2", 800_000, revision="b"),
        ],
        {},
        "p2 d2",
    ),
    "all prefill engines full": ([engine("p1", 5000, **FULL), engine("d1")], {}, "Full"),
    "full prefill engines are waited for, mixed ones not taken": (
        [engine("p1", 5000, **FULL), engine("d1"), engine("m1")],
        {},
        "Full",
    ),
    "a cache is worth the queue that it saves": ([engine("m1", 800), engine("m2", 100)], {"m1": 701}, "- m1"),
    "and no more than that": ([engine("m1", 800), engine("m2", 100)], {"m1": 699}, "- m2"),
    "a full engine is waited for if that is less work": (
        [engine("m1", 5000, **FULL), engine("m2", 100)],
        {"m1": 6000},
        "Full",
    ),
    "and not otherwise": ([engine("m1", 5000, **FULL), engine("m2", 100)], {"m1": 3000}, "- m2"),
    "savings are of the prompt's engine": ([engine("p1", 9), engine("p2"), engine("d1")], {"p1": 10}, "p1 d1"),
}


@pytest.mark.parametrize(("fleet", "saved", "expected"), CASES.values(), ids=CASES.keys())
def test_choice(fleet: list[Endpoint], saved: dict[str, float], expected: str) -> None:
    assert names(choose(fleet, saved=saved, room=ROOM)) == expected


def test_one_step_on_a_decode_engine_waits_for_room_too() -> None:
    fleet = [engine("p1"), engine("d1", 5000, **FULL)]
    route = choose(fleet, one_step=True, room=ROOM)
    assert isinstance(route, NoRoute)
    assert route.reason is RouteReason.FULL


def test_power_of_two_takes_the_better_of_two_and_meets_all() -> None:
    fleet = [engine(f"m{i}", work=i) for i in range(5)]
    chosen = [names(choose(fleet, policy=Policy.POWER_OF_TWO, draw=i / 1000)) for i in range(1000)]
    share = {name: chosen.count(f"- {name}") / 1000 for name in ("m0", "m1", "m2", "m3", "m4")}
    assert share == pytest.approx({"m0": 0.4, "m1": 0.3, "m2": 0.2, "m3": 0.1, "m4": 0.0}, abs=0.02)


def test_power_of_two_of_one_and_of_two() -> None:
    for draw in (0.0, 0.5, 0.99):
        assert names(choose([engine("m1", 9)], policy=Policy.POWER_OF_TWO, draw=draw)) == "- m1"
        two = [engine("m1", 9), engine("m2", 1)]
        assert names(choose(two, policy=Policy.POWER_OF_TWO, draw=draw)) == "- m2"


fleets = st.lists(
    st.builds(
        Endpoint,
        name=st.uuids().map(str),
        url=st.just(""),
        pool=st.sampled_from(Pool),
        revision=st.sampled_from("ab"),
        work_tokens=st.floats(0, 1e5),
        prompts=st.integers(0, 5),
        prompt_tokens=st.floats(0, 1e4),
    ),
    max_size=10,
)
draws = st.floats(0, 1, exclude_max=True)


@LAW
@given(fleet=fleets, policy=st.sampled_from(Policy), draw=draws, one_step=st.booleans())
def test_law_no_prompt_goes_where_there_is_no_room_and_waits_only_where_none_is(
    fleet: list[Endpoint], policy: Policy, draw: float, one_step: bool
) -> None:
    unbounded = choose(fleet, policy=policy, draw=draw, one_step=one_step)
    route = choose(fleet, policy=policy, draw=draw, one_step=one_step, room=ROOM)
    if isinstance(route, Route):
        assert ROOM.is_in(route.prompt_engine)
    elif route.reason is RouteReason.FULL:
        assert isinstance(unbounded, Route)
    else:
        assert unbounded == route


@LAW
@given(fleet=fleets, draw=draws, saved=st.floats(0, 1e5))
def test_law_no_engine_would_be_less_work(fleet: list[Endpoint], draw: float, saved: float) -> None:
    mixed = [e for e in fleet if e.pool is Pool.MIXED]
    if not mixed:
        return
    known = {mixed[0].name: saved}
    route = choose(mixed, draw=draw, saved=known)
    assert isinstance(route, Route)
    cost = {e.name: e.work_tokens - known.get(e.name, 0.0) for e in mixed}
    assert cost[route.decode.name] == min(cost.values())


class TestBlocks:
    def test_equal_beginnings_have_equal_hashes(self) -> None:
        start = b"x" * 3 * BLOCK_BYTES
        one, two = text_blocks(start + b"a" * BLOCK_BYTES), text_blocks(start + b"b" * 9 * BLOCK_BYTES)
        assert one[:3] == two[:3]
        assert one[3] != two[3]
        assert len(set(one)) == 4, "a block's hash has all before it"

    def test_what_is_shorter_than_a_block_has_none(self) -> None:
        assert text_blocks(b"x" * (BLOCK_BYTES - 1)) == token_blocks([1] * 127) == ()

    def test_tenants_do_not_meet(self) -> None:
        text = b"x" * BLOCK_BYTES
        assert text_blocks(text, "a") != text_blocks(text, "b")
        assert token_blocks([1] * 128, "a") != token_blocks([1] * 128, "b")

    def test_long_prompts_have_no_more_than_so_many(self) -> None:
        assert len(text_blocks(b"x" * (MOST_BLOCKS + 5) * BLOCK_BYTES)) == MOST_BLOCKS


class TestMemory:
    ABC = (b"a", b"b", b"c")

    def test_the_share_is_counted_from_the_beginning(self) -> None:
        memory = PrefixMemory()
        memory.sent("m1", self.ABC)
        assert memory.share("m1", self.ABC) == 1.0
        assert memory.share("m1", (*self.ABC, b"d")) == 0.75
        assert memory.share("m1", (b"x", b"b", b"c")) == 0.0
        assert memory.share("m2", self.ABC) == memory.share("m1", ()) == 0.0

    def test_an_engine_that_is_gone_took_its_cache_along(self) -> None:
        memory = PrefixMemory()
        memory.sent("m1", self.ABC)
        memory.keep_only(["m2"])
        assert memory.share("m1", self.ABC) == 0.0

    def test_the_end_is_forgotten_before_the_beginning(self) -> None:
        memory = PrefixMemory(2)
        memory.sent("m1", self.ABC)
        assert memory.share("m1", self.ABC) == pytest.approx(2 / 3)

    @LAW
    @given(prompts=st.lists(st.lists(st.binary(min_size=1, max_size=1), max_size=6), max_size=30))
    def test_law_memory_is_bounded(self, prompts: list[list[bytes]]) -> None:
        memory = PrefixMemory(8)
        for prompt in prompts:
            memory.sent("m1", prompt)
            assert len(memory._known["m1"]) <= 8


class TestSession:
    ENGINES = tuple(f"m{i}" for i in range(5))

    def test_always_the_same_engine_whatever_the_order(self) -> None:
        assert of_session("s", self.ENGINES) == of_session("s", self.ENGINES[::-1])
        assert of_session("s", ()) is None

    @LAW
    @given(sessions=st.lists(st.text(), min_size=1, max_size=20))
    def test_law_only_the_sessions_of_an_engine_that_goes_move(self, sessions: list[str]) -> None:
        for session in sessions:
            before = of_session(session, self.ENGINES)
            after = of_session(session, self.ENGINES[1:])
            assert after == before or before == self.ENGINES[0]

    def test_all_engines_have_their_share(self) -> None:
        chosen = [of_session(str(i), self.ENGINES) for i in range(1000)]
        assert all(150 < chosen.count(e) < 250 for e in self.ENGINES)
