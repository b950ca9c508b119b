"""The other policies as tables, and what can be set about each by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservice_core.lengths import ClassHistory
from llmservice_core.policies import NAMES, STOCK, make_policy
from llmservice_core.policy_mlfq import Mlfq
from llmservice_core.policy_orders import EarliestDeadline, Sarathi, ShortestJob, ShortestPrompt
from llmservice_core.policy_plus import Plus
from llmservice_core.policy_rad import Rad
from llmservice_core.policy_vtc import Counters, Vtc
from llmservice_core.steps import Mode, Policy, StepPlan, Task
from llmservice_core.token_budget import auto_budget
from tests.core.scenes import STRICT, chunks, decode, names, prompt, queued, step_s, view


def plan(policy: Policy, *decodes: Task, **scene: Any) -> StepPlan:
    return policy.plan(view(policy, *decodes, **scene))


class TestSarathi:
    def test_every_decode_then_started_prompts_then_the_queue(self) -> None:
        begun = [prompt("b", 900, computed=100, waits=1), prompt("a", 300, computed=100, waits=2)]
        found = plan(Sarathi(), decode("d"), decode("e"), started=begun, budget_tokens=512)
        assert (names(found.serve), chunks(found), found.is_open) == (["d", "e"], [("a", 200), ("b", 310)], True)

    def test_first_come_first_served(self) -> None:
        assert queued(Sarathi(), prompt("b", 1, waits=1), prompt("a", 900, waits=2)) == ["a", "b"]


class TestShortest:
    def test_by_prompt(self) -> None:
        assert queued(ShortestPrompt(), prompt("long", 900, waits=5), prompt("short", 20)) == ["short", "long"]

    def test_the_guard_bounds_the_wait(self) -> None:
        long = prompt("long", 900, waits=200, is_overdue=True)
        assert queued(ShortestPrompt(), prompt("short", 20), long) == ["long", "short"]
        assert (ShortestPrompt().guard_s, ShortestPrompt(guard_s=None).guard_s) == (60.0, None)

    def test_by_prompt_and_what_answers_of_its_class_took_until_now(self) -> None:
        policy = ShortestJob(ClassHistory(fewest=2))
        chat, code = {"service_class": "chat"}, {"service_class": "code"}
        rows = [prompt("chat", 400, waits=1, **chat), prompt("code", 500, **code)]
        assert queued(policy, *rows) == ["chat", "code"]
        for tokens in (500, 520):
            policy.left(prompt("", 400, produced=tokens, **chat), is_complete=True)
            policy.left(prompt("", 500, produced=tokens // 10, **code), is_complete=True)
        policy.left(prompt("", 500, produced=9000, **code), is_complete=False)
        assert queued(policy, *rows) == ["code", "chat"]


class TestEarliestDeadline:
    def test_by_deadline_pausing_what_has_started(self) -> None:
        begun = prompt("begun", 900, computed=100, waits=1, ttft_s=30.0)
        rows = [prompt("tight", 300, ttft_s=0.5), prompt("none", 10, waits=9)]
        found = plan(EarliestDeadline(), started=[begun], waiting=rows, budget_tokens=512)
        assert chunks(found) == [("tight", 300), ("begun", 212)]

    def test_late_last_is_a_choice(self) -> None:
        rows = [prompt("late", 10, waits=2, ttft_s=1.0), prompt("on time", 10, ttft_s=1.0)]
        assert queued(EarliestDeadline(), *rows) == ["late", "on time"]
        assert queued(EarliestDeadline(late_last=True), *rows) == ["on time", "late"]


class TestRad:
    """Tile 512, four decodes at once."""

    def rad(self, **settings: Any) -> Rad:
        return Rad(tile=512, width=4, **settings)

    def decodes(self, n: int) -> list[Task]:
        return [decode(str(i)) for i in range(n)]

    @pytest.mark.parametrize(
        ("decodes", "waiting", "mode"),
        [
            pytest.param(4, 1, Mode.DECODE, id="|D| = b_col: decode mode"),
            pytest.param(2, 0, Mode.DECODE, id="P is empty: decode mode"),
            pytest.param(3, 1, Mode.PREFILL, id="else: prefill mode"),
        ],
    )
    def test_algorithm_1(self, decodes: int, waiting: int, mode: Mode) -> None:
        running = self.decodes(decodes)
        found = plan(self.rad(), *running, waiting=[prompt("p", 2000)] * waiting)
        assert found.mode is mode
        is_decode = mode is Mode.DECODE
        assert (found.serve, found.waits) == (((*running,), ()) if is_decode else ((), (*running,)))
        assert chunks(found) == ([] if is_decode else [("p", 512)])

    def test_the_oldest_advances_by_whole_tiles_and_the_next_fill_the_rest(self) -> None:
        begun, young = prompt("old", 600, computed=512, waits=9), prompt("young", 2000)
        scene: dict[str, Any] = {"started": [begun], "waiting": [young]}
        assert chunks(plan(self.rad(), **scene)) == [("old", 88), ("young", 424)]
        assert chunks(plan(self.rad(is_packed=False), **scene)) == [("old", 88)]

    def test_started_ones_count_towards_the_width(self) -> None:
        begun = prompt("old", 600, computed=512, waits=9)
        assert chunks(plan(self.rad(), *self.decodes(3), started=[begun], waiting=[prompt("p", 9)])) == [("old", 88)]

    def test_a_full_cache_makes_it_decode(self) -> None:
        assert plan(self.rad(), *self.decodes(1), waiting=[prompt("p", 900)], free_tokens=899).mode is Mode.DECODE

    def test_a_cycle_takes_n_and_runs_them_to_completion(self) -> None:
        rad, rows = self.rad(cycle=2), [prompt("a", 100, waits=3), prompt("b", 100, waits=2), prompt("c", 100)]
        assert [name for name, _ in chunks(plan(rad, waiting=rows))] == ["a", "b"]
        for task in rows[:2]:
            rad.admitted(task)
        assert plan(rad, *self.decodes(1), waiting=rows[2:]).mode is Mode.DECODE
        assert [name for name, _ in chunks(plan(rad, waiting=rows[2:]))] == ["c"], "the next cycle"


class TestMlfq:
    """Levels up to 512, 1024, 2048 tokens of service; a token of an answer counts five."""

    mlfq = Mlfq()

    def test_a_prompt_joins_where_its_first_step_fits_and_sinks_with_its_answer(self) -> None:
        assert [self.mlfq.level(prompt("p", n)) for n in (10, 513, 1025, 9000, 90_000)] == [0, 1, 2, 5, 5]
        assert self.mlfq.level(decode("d", kv=110, produced=100)) == 0
        assert self.mlfq.level(decode("d", kv=210, produced=101)) == 1

    def test_sunken_decodes_take_what_prompts_of_higher_levels_leave(self) -> None:
        high, low = decode("high", kv=60, produced=10), decode("low", kv=3000, produced=300)
        found = plan(self.mlfq, low, high, waiting=[prompt("p", 100)])
        assert (names(found.serve), chunks(found), names(found.later)) == (["high"], [("p", 100)], ["low"])

    def test_who_starves_is_served(self) -> None:
        low = decode("low", kv=3000, produced=300, ago_s=1.1)
        assert names(plan(self.mlfq, low, waiting=[prompt("p", 100)]).serve) == ["low"]

    def test_without_prompts_everybody_runs(self) -> None:
        assert len(plan(self.mlfq, decode("a"), decode("b", kv=3000, produced=500)).serve) == 2


class TestVtc:
    def test_the_tenant_with_least_service_goes_first_and_is_charged_within_the_step(self) -> None:
        vtc = Vtc()
        vtc.counters.served.update(a=0.0, b=150.0)
        rows = [prompt(f"{t}{i}", 100, tenant=t, waits=9 - i) for t in "ab" for i in range(3)]
        queue_lift = {"a": 0.0, "b": 150.0}
        found = plan(vtc, waiting=rows, budget_tokens=500)
        assert [name for name, _ in chunks(found)] == ["a0", "a1", "b0", "a2", "b1"]
        assert vtc.counters.served == queue_lift, "a plan charges nobody: only what is admitted counts"

    def test_the_first_that_does_not_fit_ends_it(self) -> None:
        vtc = Vtc()
        vtc.counters.served.update(a=1.0, b=150.0)
        rows = [prompt("big", 900, tenant="a"), prompt("small", 10, tenant="b")]
        assert plan(vtc, waiting=rows, free_tokens=500).chunks == []

    def test_who_comes_back_is_lifted_and_never_lowered(self) -> None:
        counters = Counters(served={"a": 100.0, "b": 40.0, "c": 500.0})
        for tenant in "abc":
            counters.arrived(tenant)
        assert counters.served == {"a": 100.0, "b": 100.0, "c": 500.0}

    def test_in_an_empty_queue_to_the_one_who_left_last(self) -> None:
        counters = Counters()
        counters.arrived("a")
        counters.departed("a")
        counters.charge_input("a", 70)
        counters.arrived("new")
        assert counters.of("new") == 70

    def test_weights_and_shares(self) -> None:
        counters = Counters(shares={"big": 2.0})
        for tenant in ("big", "small"):
            counters.charge_input(tenant, 100)
            counters.charge_output(tenant, 10)
        assert counters.served == {"big": 60.0, "small": 120.0}

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(1, 50)), max_size=60))
    def test_counters_never_fall(self, calls: list[tuple[str, bool, int]]) -> None:
        vtc, queued_tasks = Vtc(), []
        for tenant, comes, tokens in calls:
            before = dict(vtc.counters.served)
            if comes or not queued_tasks:
                queued_tasks.append(prompt("p", tokens, tenant=tenant))
                vtc.joined(queued_tasks[-1])
            else:
                task = queued_tasks.pop(0)
                vtc.admitted(task)
                vtc.served([task], now_s=0.0, kv_usage=0.5)
                vtc.left(task, is_complete=True)
            assert all(vtc.counters.of(t) >= value for t, value in before.items())


class TestTokenBudget:
    """A step of n prompt tokens and one decode: 5.5 ms + 0.1 ms n; 85 % of 0.1 s allow 795."""

    def test_whole_tiles_within_the_tightest_target(self) -> None:
        assert auto_budget([decode("d", tbt_s=STRICT)], step_s, 4096) == 1 + 6 * 128
        assert auto_budget([decode("d")], step_s, 8192) == 1 + 32 * 128

    def test_decodes_count(self) -> None:
        many = [decode(str(i), tbt_s=STRICT) for i in range(60)]
        assert auto_budget(many, step_s, 4096) == 60 + 3 * 128

    def test_at_least_one_tile_and_at_most_what_the_engine_has(self) -> None:
        many = [decode(str(i), tbt_s=STRICT) for i in range(200)]
        assert auto_budget(many, step_s, 4096) == 200 + 128
        assert auto_budget([decode("d", tbt_s=STRICT)], step_s, 512) == 512 - 512 % 128 - 128 + 1
        assert auto_budget([decode("d", tbt_s=None)], step_s, 512) == 512


class TestByName:
    def test_all_of_them(self) -> None:
        for name in NAMES:
            policy = make_policy(name)
            assert (policy.name if policy else STOCK) == name
        assert NAMES[:2] == (STOCK, "slai-plus")

    @pytest.mark.parametrize(
        ("name", "settings", "says"),
        [
            ("slay", {}, "there are fcfs, slai-plus"),
            ("slai", {"aim": 0.9}, "no setting 'aim': it has offset"),
            ("fcfs", {"offset": 1}, "it has none"),
            ("slai", {"offset": -1}, "must be a positive number, not -1"),
            ("slai", {"offset": math.nan}, "must be a positive number"),
            ("slai", {"offset": "5"}, "must be a positive number, not '5'"),
            ("slai", {"strict_first": 1}, "must be true or false"),
            ("slai-plus", {"widest": 2.5}, "must be a whole number"),
            ("sjf", {"predictor": "crystal ball"}, "there are history, oracle"),
        ],
    )
    def test_a_mistake_is_a_sentence(self, name: str, settings: dict[str, Any], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            make_policy(name, settings)

    def test_a_paced_model_has_widths_of_its_own_size(self) -> None:
        policy = make_policy("slai-plus", {"widest": 1024}, scale=8)
        assert isinstance(policy, Plus)
        assert (policy.bulk.widest, policy.bulk.tile, policy.bulk.aim) == (128, 16, 0.85)
