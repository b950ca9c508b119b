"""Pace, step clock and engine counters, without an engine."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from llmservice_core.latency import Work, work
from llmservice_core.policy_orders import Sarathi
from llmservice_core.step_models import step_model
from llmservice_core.step_sums import PAIRS, features, kind_of
from llmservice_core.steps import Task
from llmservice_serving import engine_steps, pace
from llmservice_serving.engine_misses import CAUSES, StepFacts
from llmservice_serving.engine_numbers import MAX_SERIES, EngineNumbers, Limits, Live
from llmservice_serving.engine_seats import Seat, Seats
from llmservice_serving.engine_steps import StepClock
from llmservice_serving.engine_targets import Targets, parse
from llmservice_serving.pace import Lateness, Pace
from llmservice_serving.pace import parse as parse_pace

MODEL = "rtx4090-mistral-7b"
LIMITS = Limits(kv_tokens=1000, max_batched_tokens=64, max_seqs=8, tile_tokens=16, bin_tokens=8)
CHUNK, DECODES = work([(32, 16)]), work([], [100, 50])


def numbers() -> EngineNumbers:
    idle = Live(waiting=0, prefills=0, decodes=0, hidden=0, unpulled_blocks=0, kv_usage=0.0)
    return EngineNumbers(LIMITS, lambda: idle)


class Clock:
    """Stands in for the time module: sleeping is what makes time pass."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.oversleep_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds + self.oversleep_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    monkeypatch.setattr(engine_steps, "time", made)
    return made


@pytest.fixture
def steps(clock: Clock) -> StepClock:
    made = StepClock()
    made.numbers = numbers()
    return made


class TestPace:
    def test_name_and_scale(self) -> None:
        assert parse_pace(f"{MODEL}, scale=8") == Pace(model=step_model(MODEL), scale=8)
        assert parse_pace(MODEL).scale == 1

    @pytest.mark.parametrize("text", ["rtx9090", f"{MODEL},scale=0", f"{MODEL},scale=x", f"{MODEL},speed=2"])
    def test_what_makes_no_sense_is_refused_with_a_sentence(self, text: str) -> None:
        with pytest.raises(ValueError, match="LLMSERVICE_PACE"):
            parse_pace(text)

    def test_a_tiny_step_lasts_as_long_as_the_real_one(self) -> None:
        assert Pace(model=step_model(MODEL), scale=8).duration_s(CHUNK) == step_model(MODEL).step_s([(256, 128)])

    def test_waits_out_the_rest_and_tells_when_there_is_none(self, clock: Clock) -> None:
        card = Pace(model=step_model(MODEL), scale=8)
        assert card.wait(CHUNK, clock.now_s - 0.005) == Lateness(overran=False, late_s=0.0)
        assert clock.now_s == pytest.approx(card.duration_s(CHUNK) - 0.005)
        late = card.wait(CHUNK, clock.now_s - 1)
        assert late.overran
        assert late.late_s == pytest.approx(1 - card.duration_s(CHUNK))


class TestStepClock:
    def fly(self, steps: StepClock, clock: Clock, w: Work, seconds: float, *, has_more: bool) -> None:
        flight = steps.depart(clock.now_s)
        flight.ticket = ticket = object()
        steps.work(w)
        clock.sleep(seconds)
        steps.rest(steps.land(ticket), has_more=has_more)

    def test_while_busy_a_step_counts_from_the_end_of_the_one_before(self, steps: StepClock, clock: Clock) -> None:
        self.fly(steps, clock, DECODES, 0.01, has_more=True)
        clock.sleep(0.03)
        self.fly(steps, clock, DECODES, 0.01, has_more=False)
        assert seconds(steps, "decode") == pytest.approx(0.05)

    def test_idle_time_is_nobodys(self, steps: StepClock, clock: Clock) -> None:
        self.fly(steps, clock, DECODES, 0.01, has_more=False)
        clock.sleep(30)
        self.fly(steps, clock, CHUNK, 0.02, has_more=False)
        assert seconds(steps, "prefill") == pytest.approx(0.02)

    def test_steps_that_overlap_share_the_time_between_their_ends(self, steps: StepClock, clock: Clock) -> None:
        """Async scheduling: the second departs before the first lands."""
        tickets = [object(), object()]
        for ticket in tickets:
            steps.depart(clock.now_s).ticket = ticket
            steps.work(DECODES)
        for ticket in tickets:
            clock.sleep(0.01)
            steps.rest(steps.land(ticket), has_more=True)
        assert seconds(steps, "decode") == pytest.approx(0.02)

    def test_a_step_that_was_dropped_is_skipped(self, steps: StepClock, clock: Clock) -> None:
        steps.depart(clock.now_s).ticket = object()
        self.fly(steps, clock, DECODES, 0.01, has_more=False)
        assert seconds(steps, "decode") == pytest.approx(0.01)

    def test_a_paced_step_lasts_as_long_as_the_card_and_an_overrun_is_counted(
        self, steps: StepClock, clock: Clock
    ) -> None:
        steps.pace = Pace(model=step_model(MODEL), scale=8)
        self.fly(steps, clock, CHUNK, 0.001, has_more=True)
        assert seconds(steps, "prefill") == pytest.approx(steps.pace.duration_s(CHUNK))
        self.fly(steps, clock, CHUNK, 1.0, has_more=True)
        assert steps.numbers is not None
        assert (steps.numbers.paced_steps, steps.numbers.pace_overruns) == (2, 1)

    def test_a_late_wake_up_is_no_overrun_but_its_time_is_counted(self, steps: StepClock, clock: Clock) -> None:
        steps.pace = Pace(model=step_model(MODEL), scale=8)
        clock.oversleep_s = 0.004
        self.fly(steps, clock, CHUNK, 0.001, has_more=True)
        assert steps.numbers is not None
        assert steps.numbers.pace_overruns == 0
        assert steps.numbers.pace_late_s == pytest.approx(0.004)

    def test_an_empty_step_is_none_but_gives_the_core_away(self, steps: StepClock, clock: Clock) -> None:
        """vLLM's loop spins while finished prompts wait to be pulled."""
        steps.pace = Pace(model=step_model(MODEL))
        self.fly(steps, clock, Work(), 0.0, has_more=True)
        assert clock.now_s > 0
        assert steps.numbers is not None
        assert steps.numbers.paced_steps == 0


def seconds(steps: StepClock, kind: str) -> float:
    assert steps.numbers is not None
    return steps.numbers.kinds[kind].seconds


class TestNumbers:
    def test_kinds(self) -> None:
        both = work([(32, 16)], [100])
        assert [kind_of(w) for w in (CHUNK, DECODES, both)] == ["prefill", "decode", "mixed"]

    def test_features(self) -> None:
        assert features(CHUNK, 16) == (1, 2, 0.032, 32 * 32 / 1e6, 0, 0)
        assert features(DECODES, 16) == (1, 1, 0.002, 0, 2, 0.15)

    def test_sums_are_those_of_the_steps(self) -> None:
        n = numbers()
        n.step(DECODES, 0.5)
        n.step(DECODES, 0.25)
        sums = n.kinds["decode"]
        assert (sums.steps, sums.seconds) == (2, 0.75)
        assert sums.xx[PAIRS.index((4, 5))] == pytest.approx(2 * 2 * 0.15)
        assert sums.xy[5] == pytest.approx(0.15 * 0.75)

    @pytest.mark.parametrize(("tokens", "first"), [(1, 1), (8, 1), (9, 9), (16, 9)])
    def test_a_bin_ends_on_a_multiple_of_its_width(self, tokens: int, first: int) -> None:
        n = numbers()
        n.step(work([(tokens, 0)]), 0.1)
        assert n.bins == {first: [1, 0.1]}

    def test_clients_cannot_make_series_without_end(self) -> None:
        n = numbers()
        made = [n.gaps_of(f"c{i}", 0.1) for i in range(MAX_SERIES)]
        assert n.gaps_of("c0", 0.1) is made[0]
        n.gaps_of("new", 0.1)
        assert len(n.gaps) == MAX_SERIES
        assert ("c0", 0.1) in n.gaps, "the pair that was asked for longest ago makes room, and that is c1"
        assert ("c1", 0.1) not in n.gaps


def request(extra: dict[str, Any] | None, name: str = "r") -> Any:
    """What Seats reads of vLLM's."""
    params = SimpleNamespace(extra_args=extra)
    return SimpleNamespace(
        request_id=name,
        num_tokens=7,
        sampling_params=params,
        arrival_time=time.time(),
        priority=0,
        max_tokens=9,
        num_preemptions=0,
    )


def step(ended_s: float, **facts: Any) -> StepFacts:
    return StepFacts(**{"ended_s": ended_s, "seconds": 0.05, "has_prompts": False, "kv_usage": 0.5, **facts})


class TestSeats:
    def seat(self, seats: Seats, tbt_s: float | None = 0.1) -> Seat:
        extra = {"class": "c", "tenant": "t", "tbt_s": tbt_s, "age_s": 2.0} if tbt_s else None
        return seats.of(request(extra))

    def served(self, *times_s: float, tokens: int = 1) -> tuple[int, int]:
        seats = Seats()
        seats.numbers = numbers()
        seat = self.seat(seats)
        for now_s in times_s:
            seats.served(["r"], [[7] * tokens], step(now_s))
        assert seat.gaps is not None
        return seat.gaps.events, seat.gaps.good

    @pytest.mark.parametrize(
        ("times_s", "counted"),
        [
            pytest.param((1.0,), (0, 0), id="the first token has no gap"),
            pytest.param((1.0, 1.09, 1.18), (2, 2), id="within target"),
            pytest.param((1.0, 1.2, 1.25), (2, 1), id="late once"),
        ],
    )
    def test_gaps(self, times_s: tuple[float, ...], counted: tuple[int, int]) -> None:
        assert self.served(*times_s) == counted

    def test_tokens_of_one_step_leave_together(self) -> None:
        assert self.served(1.0, 2.0, tokens=3) == (5, 4)

    def test_the_time_a_request_had_waited_before_counts_for_its_place(self) -> None:
        seat = self.seat(Seats())
        assert 2.0 <= time.monotonic() - seat.arrival_s < 2.5
        assert (seat.service_class, seat.tenant, seat.known) == ("c", "t", 7)

    def test_without_a_target_nothing_is_counted(self) -> None:
        seats = Seats()
        seats.numbers = numbers()
        assert self.seat(seats, None).gaps is None
        assert not seats.numbers.gaps

    def test_a_seat_that_was_left_is_gone(self) -> None:
        seats = Seats()
        self.seat(seats)
        assert seats.tightest_tbt_s == 0.1
        seats.leave("r", is_complete=True)
        assert (len(seats), seats.tightest_tbt_s) == (0, None)

    @pytest.mark.parametrize(
        ("facts", "sat_out", "preemptions", "cause"),
        [
            pytest.param({"has_prompts": True, "seconds": 0.2, "kv_usage": 1.0}, 3, 1, "preemption", id="first of all"),
            pytest.param({"has_prompts": True, "seconds": 0.2, "kv_usage": 1.0}, 3, 0, "prefill", id="long step"),
            pytest.param({"has_prompts": True, "seconds": 0.05}, 3, 0, "held_back", id="it sat out steps"),
            pytest.param({"kv_usage": 0.97}, 0, 0, "kv_pressure", id="full cache"),
            pytest.param({"seconds": 0.2}, 0, 0, "overload", id="too much to do"),
        ],
    )
    def test_a_late_token_has_one_cause(
        self, facts: dict[str, Any], sat_out: int, preemptions: int, cause: str
    ) -> None:
        seats = Seats()
        seats.numbers = numbers()
        seat = self.seat(seats)
        seats.served(["r"], [[7]], step(1.0))
        seat.request.num_preemptions = preemptions
        for _ in range(sat_out):
            seats.sit_out(["r"])
        seats.served(["r"], [[7]], step(1.25, **facts))
        seats.served(["r"], [[7]], step(1.3))
        assert seat.gaps is not None
        assert seat.gaps.misses == {name: int(name == cause) for name in CAUSES}
        assert (seat.gaps.slack[0], sum(seat.gaps.slack), seat.sat_out) == (1, 2, 0)

    def test_of_tokens_that_are_late_together_each_has_its_own_cause(self) -> None:
        seats = Seats()
        seats.numbers = numbers()
        for name in ("plain", "preempted", "sat out", "as plain"):
            seats.of(request({"class": "c", "tbt_s": 0.1}, name))
        seats.served(list(seats.by_id), [[7]] * 4, step(1.0))
        seats.by_id["preempted"].request.num_preemptions = 1
        seats.sit_out(["sat out"])
        seats.served(list(seats.by_id), [[7]] * 4, step(1.25, seconds=0.05))
        gaps = seats.by_id["plain"].gaps
        assert gaps is not None
        assert gaps.misses == dict.fromkeys(CAUSES, 0) | {"overload": 2, "preemption": 1, "held_back": 1}

    def test_the_policy_hears_of_each_request_once(self) -> None:
        heard: list[str] = []

        class Ear(Sarathi):
            def joined(self, task: Task) -> None:
                heard.append("joined")

            def admitted(self, task: Task) -> None:
                heard.append("admitted")

            def left(self, task: Task, *, is_complete: bool) -> None:
                heard.append(f"left {is_complete}")

        seats = Seats()
        seats.policy = Ear()
        self.seat(seats)
        self.seat(seats)
        seats.admitted("r")
        seats.admitted("r")
        seats.leave("r", is_complete=False)
        seats.leave("r", is_complete=False)
        assert heard == ["joined", "admitted", "left False"]


@pytest.mark.parametrize(
    ("given", "targets"),
    [
        (None, Targets()),
        ({}, Targets()),
        ({"class": "chat-1", "ttft_s": 1, "tbt_s": 0.05, "age_s": 0},
         Targets(class_name="chat-1", ttft_s=1.0, tbt_s=0.05, age_s=0.0)),
        ({"kv_transfer_params": {"x": 1}, "tbt_s": 0.5}, Targets(tbt_s=0.5)),
    ],
)  # fmt: skip
def test_targets(given: dict[str, object] | None, targets: Targets) -> None:
    assert parse(given).targets == targets
    assert parse(given).problem is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"class": "A B", "tbt_s": 0.5}, Targets(tbt_s=0.5)),
        ({"class": "c", "tbt_s": float("nan")}, Targets(class_name="c")),
        ({"class": "c", "tbt_s": float("inf"), "ttft_s": 2.0}, Targets(class_name="c", ttft_s=2.0)),
        ({"class": "c", "tbt_s": True}, Targets(class_name="c")),
        ({"class": "c" * 64}, Targets()),
    ],
)
def test_what_makes_no_sense_counts_as_unknown_and_the_rest_stands(given: dict[str, object], kept: Targets) -> None:
    assert parse(given).targets == kept
    assert parse(given).problem
