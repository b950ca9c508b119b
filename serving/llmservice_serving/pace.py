"""Makes a step of a small CPU model last as long as the measured step of a real GPU would. For laptops, demo and tests.

LLMSERVICE_PACE="<step model>[,scale=8]": one token of the small model stands for `scale` real ones, in length and in
width, so that requests per second, TTFT and TBT are those of the card while the compute fits two cores. Sleeps, never
shortens: a step that took longer by itself is an overrun, and every number of a paced run is shown with their share.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from llmservice_core import contract
from llmservice_core.latency import StepModel, Work
from llmservice_core.step_models import step_model

OVERRUN_SLACK_S = 0.001
"""A step is late only beyond this: the operating system may wake a sleeper that much later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lateness:
    """How a step missed its pace: by its own work (an overrun), and by how much in all, late wake-ups included."""

    overran: bool
    late_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    model: StepModel
    scale: int = 1

    def duration_s(self, w: Work) -> float:
        return self.model.work_s(w.scaled(self.scale))

    def wait(self, w: Work, started_s: float) -> Lateness:
        """Sleep until the step that began at `started_s` (monotonic) has lasted long enough."""
        end_s = started_s + self.duration_s(w)
        left_s = end_s - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
        return Lateness(overran=left_s < -OVERRUN_SLACK_S, late_s=max(0.0, time.monotonic() - end_s))


def parse(text: str) -> Pace:
    """`NAME[,scale=N]`. ValueError with a sentence that says what is wrong."""
    name, *options = (part.strip() for part in text.split(","))
    scale = 1
    for option in options:
        key, _, value = option.partition("=")
        if key != "scale" or not value.isdecimal() or not 1 <= int(value) <= 64:
            raise ValueError(f"{contract.ENV_PACE}: {option!r} is not scale=1..64")
        scale = int(value)
    try:
        return Pace(model=step_model(name), scale=scale)
    except KeyError as e:
        raise ValueError(f"{contract.ENV_PACE}: {e.args[0]}") from None


def from_environment() -> Pace | None:
    """The pace of this process, None if none is asked for. A bad value stops the engine: full speed would lie."""
    text = os.environ.get(contract.ENV_PACE)
    return parse(text) if text else None
