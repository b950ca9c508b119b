"""Pools of prefill and decode, or one mixed pool: what `disaggregation: Auto` means for a new service.

One mixed pool wastes no rounding, moves no KV and lets decodes fill the time between prompts: with slai-plus it serves
more on the same GPUs as long as a step that mixes prompts and decodes fits into the strictest TBT. Where it does not,
every prompt breaks a promise, and pools are the way (bench/sizing/POOLS_OR_MIXED.md). So the rule is about that step.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmservice_core.bulk import Bulk
from llmservice_core.latency import work
from llmservice_core.step_models import names, step_model

DECODES, CONTEXT_TOKENS, CACHED_TOKENS = 64, 1000, 500
"""Of the step that is asked about: an engine at work on chats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`is_split`: prefill and decode pools. `why`: a sentence with the numbers."""

    is_split: bool
    why: str


def gpus() -> tuple[str, ...]:
    """GPUs whose step times were measured."""
    return tuple(sorted({name.partition("-")[0] for name in names()}))


def choose(strictest_tbt_s: float, gpu: str | None) -> Choice:
    """`gpu`: one of `gpus()`; None: the slowest of them, so that a promise is kept rather than a GPU saved.
    ValueError: nobody measured it."""
    bulk = Bulk()
    measured = [name for name in names() if gpu is None or name.partition("-")[0] == gpu]
    if not measured:
        raise ValueError(f"no step times of GPU {gpu!r} were measured: there are {', '.join(gpus())}")
    step = work([(bulk.narrowest, CACHED_TOKENS)], [CONTEXT_TOKENS] * DECODES)
    seconds, slowest = max((step_model(name).work_s(step), name) for name in measured)
    room_s = bulk.aim * strictest_tbt_s
    is_split = seconds > room_s
    verdict = (
        "does not fit: prefill and decode pools" if is_split else "fits: one mixed pool, which serves more per GPU"
    )
    return Choice(
        is_split=is_split,
        why=(
            f"a step of {bulk.narrowest} prompt tokens and {DECODES} decodes takes {1000 * seconds:.0f} ms on"
            f" {gpu or 'the slowest GPU measured'} ({slowest}), and {bulk.aim:.0%} of the strictest TBT are"
            f" {1000 * room_s:.0f} ms; it {verdict}"
        ),
    )
