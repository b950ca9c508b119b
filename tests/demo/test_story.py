"""The demo's verdict: each line fails when its part of the story is missing."""

import dataclasses

import pytest

from e2e.demo.story import OUTPUTS, PROMPTS, QUIET, QUIET_AGAIN, Moment, attained, checks
from e2e.load import Sample

MINIMUM = {"prefill": 1, "decode": 1}


def moment(time_s: float, phase: str, prefill: int, decode: int) -> Moment:
    sizes = {"prefill": prefill, "decode": decode}
    return Moment(time_s=time_s, phase=phase, desired=sizes, ready=sizes)


GOOD = [
    moment(0, QUIET, 1, 1),
    moment(60, PROMPTS, 1, 1),
    moment(80, PROMPTS, 3, 1),
    moment(200, OUTPUTS, 3, 1),
    moment(220, OUTPUTS, 1, 3),
    moment(400, QUIET_AGAIN, 1, 1),
]


def changed(time_s: float, **sizes: dict[str, int]) -> list[Moment]:
    return [dataclasses.replace(m, **sizes) if m.time_s == time_s else m for m in GOOD]


DECODE_FIRST = [*GOOD[:2], moment(70, PROMPTS, 1, 2), *GOOD[2:]]
NEVER_READY = changed(80, ready={"prefill": 1, "decode": 1})


def verdict(timeline: list[Moment], overrun: float | None = 0.01) -> list[bool]:
    return [check.ok for check in checks(timeline, MINIMUM, overrun)]


def test_the_whole_story_passes() -> None:
    assert verdict(GOOD) == [True, True, True, True]


@pytest.mark.parametrize(
    ("timeline", "overrun", "failing"),
    [
        ([m for m in GOOD if m.time_s != 80], 0.01, 0),
        (DECODE_FIRST, 0.01, 0),
        (NEVER_READY, 0.01, 0),
        (changed(220, ready={"prefill": 3, "decode": 1}), 0.01, 1),
        ([m for m in GOOD if m.time_s != 220], 0.01, 1),
        (GOOD[:-1], 0.01, 2),
        (GOOD, 0.06, 3),
        (GOOD, None, 3),
        ([], 0.0, 2),
    ],
)
def test_a_missing_part_fails(timeline: list[Moment], overrun: float | None, failing: int) -> None:
    assert not verdict(timeline, overrun)[failing]


def sample(ttft_s: float | None, gaps: list[float], error: str | None = None) -> Sample:
    return Sample(service_class="chat", phase=QUIET, sent_s=0, prompt_tokens=1, asked_tokens=1, ttft_s=ttft_s,
                  gaps_s=gaps, error=error)  # fmt: skip


def test_a_failed_request_is_a_miss_and_gaps_count_one_by_one() -> None:
    (seen,) = attained([sample(0.1, [0.01, 0.2]), sample(0.1, [0.01, 0.01], "broken")], {"chat": (0.5, 0.05)})
    assert (seen.requests, seen.failed, seen.ttft_share, seen.gap_share) == (2, 1, 0.5, 0.75)


def test_no_requests_is_unknown_not_zero() -> None:
    (seen,) = attained([], {"chat": (0.5, 0.05)})
    assert seen.ttft_share is None
    assert seen.gap_share is None
