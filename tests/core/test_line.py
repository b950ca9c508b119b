"""The router's queue: whose turn it is, what goes before, who must leave; then fairness, for all orders of coming."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.router.prefill_pool import Ask, PrefillPool, percentile, prefill_s
from llmservice_core.line import Amount, Line, Services, Waiter
from llmservice_core.picking import Room
from llmservice_core.step_models import step_model

LAW = settings(deadline=None, max_examples=60)
NOW = 100.0
TARGETS = {"strict": 0.5, "relaxed": 30.0}


def waiter(tokens: int, *, c: str = "strict", tenant: str = "", age: float = 0.0) -> Waiter:
    return Waiter(service_class=c, tenant=tenant, arrival_s=NOW - age, ttft_s=TARGETS.get(c), prompt_tokens=tokens)


def line_of(*waiters: Waiter, **settings: float) -> Line:
    line = Line(**settings)  # type: ignore[arg-type]
    for one in waiters:
        line.add(one)
    return line


def order(line: Line, now_s: float = NOW) -> list[Waiter]:
    turns = []
    while (one := line.first(now_s)) is not None:
        line.take(one)
        turns.append(one)
    return turns


def tokens(line: Line, now_s: float = NOW) -> list[int]:
    return [w.prompt_tokens for w in order(line, now_s)]


ORDERS = {
    "shortest first": ([waiter(30), waiter(10), waiter(20)], [10, 20, 30]),
    "of equals the first that came": ([waiter(10, age=0.1), waiter(10, age=0.3), waiter(5)], [5, 10, 10]),
    "strict class first, however long": ([waiter(1, c="relaxed"), waiter(900)], [900, 1]),
    "late ones behind all that can be in time": (
        [waiter(1, age=0.6), waiter(40), waiter(30, c="relaxed"), waiter(2, c="relaxed", age=29)],
        [40, 2, 30, 1],
    ),
    "among late ones strict and short first": (
        [waiter(9, age=1), waiter(3, age=1), waiter(1, c="relaxed", age=31)],
        [3, 9, 1],
    ),
    "no target is never late and comes last": ([waiter(1, c="none", age=1e4), waiter(9, c="relaxed")], [9, 1]),
}


@pytest.mark.parametrize(("waiters", "expected"), ORDERS.values(), ids=ORDERS.keys())
def test_order(waiters: list[Waiter], expected: list[int]) -> None:
    assert tokens(line_of(*waiters, guard_s=1e9)) == expected


def test_the_tenant_with_the_least_service_comes_first_whatever_the_length() -> None:
    line = line_of(*(waiter(100, tenant="many") for _ in range(4)), waiter(300, tenant="few"))
    assert [w.tenant for w in order(line)] == ["many", "few", "many", "many", "many"]


def test_fairness_goes_before_lateness_inside_a_class_and_not_across() -> None:
    late = waiter(9, tenant="a", age=9)
    line = line_of(late, waiter(5, tenant="b"), waiter(1, c="relaxed", tenant="b"))
    line.services.of("strict").charge_output("b", 50)
    assert order(line)[0] is late
    assert tokens(line_of(waiter(9, tenant="a", age=9), waiter(1, c="relaxed", tenant="b")), NOW) == [1, 9]


def test_tokens_of_an_answer_count_double() -> None:
    services = Services()
    one = waiter(10, tenant="a")
    services.produced(one, 7)
    assert services.of("strict").of("a") == 14
    assert services.of("relaxed").of("a") == 0


def test_a_prompt_is_charged_once_however_often_it_is_tried() -> None:
    line, one = Line(), waiter(10, tenant="a")
    for _ in range(3):
        line.add(one)
        line.take(one)
    assert line.services.of("strict").of("a") == 10


def test_the_guard_gives_one_turn_in_eight_to_the_one_that_waited_longest() -> None:
    old = waiter(9_999, c="relaxed", age=31)
    line = line_of(*(waiter(i) for i in range(1, 21)), old, guard_s=30.0)
    turns = order(line)
    assert turns.index(old) == 7
    assert [w.prompt_tokens for w in turns if w is not old] == list(range(1, 21))


def test_the_guard_inside_a_tenant() -> None:
    old = waiter(9_999, c="relaxed", age=40)
    line = line_of(*(waiter(i, c="relaxed") for i in range(1, 21)), old, guard_s=30.0)
    assert order(line).index(old) == 7


@LAW
@given(lengths=st.lists(st.integers(1, 1000), max_size=40), c=st.sampled_from(["strict", "relaxed"]))
def test_law_without_keys_the_order_is_by_length(lengths: list[int], c: str) -> None:
    assert tokens(line_of(*(waiter(n, c=c) for n in lengths))) == sorted(lengths)


rows = st.lists(
    st.tuples(st.integers(1, 500), st.sampled_from(["strict", "relaxed"]), st.sampled_from("abc"), st.floats(0, 40)),
    min_size=1,
    max_size=30,
)


@LAW
@given(rows=rows, left=st.integers(0, 29))
def test_law_everybody_has_one_turn_and_who_leaves_has_none(rows: list[tuple[int, str, str, float]], left: int) -> None:
    waiters = [waiter(n, c=c, tenant=t, age=age) for n, c, t, age in rows]
    line = line_of(*waiters)
    gone = waiters.pop(left % len(waiters))
    line.remove(gone)
    assert len(line) == len(waiters)
    assert gone not in line
    assert sorted(map(id, order(line))) == sorted(map(id, waiters))
    assert len(line) == 0
    assert line.waiting("strict") == line.waiting("relaxed") == Amount()


@LAW
@given(rows=rows)
def test_law_what_is_said_to_go_before_is_what_goes_before_where_there_is_one_tenant(
    rows: list[tuple[int, str, str, float]],
) -> None:
    waiters = [waiter(n, c=c, age=age) for n, c, _, age in rows]
    line = line_of(*waiters, guard_s=1e9)
    mine = waiters[0]
    promised = line.ahead(mine, NOW)
    turns = order(line)
    before = turns[: turns.index(mine)]
    assert promised == Amount(len(before), sum(w.prompt_tokens for w in before))


def test_of_other_tenants_only_what_brings_them_level_goes_before() -> None:
    mine = waiter(100, tenant="few")
    line = line_of(*(waiter(100, tenant="many") for _ in range(50)), waiter(80, tenant="few"), mine)
    ahead = line.ahead(mine, NOW)
    assert (ahead.prompts, ahead.tokens) == (pytest.approx(1.8), pytest.approx(160))


def test_the_newest_of_a_tenant() -> None:
    young = waiter(5, tenant="many", age=1)
    line = line_of(waiter(5, tenant="many", age=3), young, waiter(9, tenant="few"))
    assert line.by_tenant("strict") == {"many": 10, "few": 9}
    assert line.newest("strict", "many") is young
    assert line.newest("strict", "nobody") is line.newest("nothing", "many") is None


BATCH_TOKENS = 64
jobs = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=25)


@LAW
@given(a=jobs, b=jobs)
def test_law_two_backlogged_tenants_get_equal_service_within_the_bound_of_the_paper(
    a: list[tuple[int, int]], b: list[tuple[int, int]]
) -> None:
    """arXiv 2401.00588: 2 max(w_p L_input, w_q M). One engine that holds M tokens; answers grow by one each step."""
    line, sizes = Line(), dict[Waiter, tuple[int, int]]()
    for tenant, rows in (("a", a), ("b", b)):
        for size in rows:
            one = waiter(size[0], tenant=tenant)
            sizes[one] = size
            line.add(one)
    bound = 2 * max(max(n for n, _ in a + b), 2 * BATCH_TOKENS)
    service, running = {"a": 0.0, "b": 0.0}, dict[Waiter, int]()
    while len(line) or running:
        held = sum(sum(sizes[w]) for w in running)
        while (head := line.first(NOW)) is not None and held + sum(sizes[head]) <= BATCH_TOKENS:
            line.take(head)
            running[head] = 0
            held += sum(sizes[head])
            service[head.tenant] += head.prompt_tokens
        for one in list(running):
            running[one] += 1
            service[one.tenant] += 2
            line.services.produced(one, 1)
            if running[one] == sizes[one][1]:
                del running[one]
        if len(line.by_tenant("strict")) == 2:
            assert abs(service["a"] - service["b"]) <= bound


def test_one_tenant_sends_twenty_times_as_much_and_the_other_hardly_notices() -> None:
    """Four engines, together 1.2 times what they can do: without fairness the quiet one waits as the loud one."""
    alone, beside = (quiet_p95_s(loud=loud) for loud in (0, 20))
    assert beside <= 1.3 * alone
    assert quiet_p95_s(loud=20, with_keys=False) > 2 * alone


def quiet_p95_s(*, loud: int, with_keys: bool = True, engines: int = 4) -> float:
    model, lengths = step_model("h100-llama-3.1-8b"), random.Random(5)
    per_s = 1.2 * engines / 21 / prefill_s(model, 2048)
    asks = []
    for tenant, rate in (("quiet", per_s), ("loud", loud * per_s)):
        rng, now_s = random.Random(tenant), 0.0
        while rate and (now_s := now_s + rng.expovariate(rate)) < 60.0:
            key = tenant if with_keys else ""
            size = lengths.choice((256, 512, 1024, 2048, 6400))
            asks.append((tenant, Ask(arrival_s=now_s, prompt_tokens=size, tenant=key)))
    quiet = {ask for tenant, ask in asks if tenant == "quiet"}
    pool = PrefillPool(engines, model, room=Room(tokens=2 * 512.0))
    return percentile([s.ttft_s for s in pool.run(ask for _, ask in asks) if s.ask in quiet], 95)
