"""What an engine believes of its own steps: the model of its pace, or one learned from its own step sums. No vLLM.

Learned with the code that the operator learns capacity with; until enough steps were seen there is none.
"""

from __future__ import annotations

from llmservice_core import least_squares
from llmservice_core.capacity import INDEPENDENT_STEPS, STEP_NOISE
from llmservice_core.metric_names import FEATURES
from llmservice_core.step_sums import PAIRS, KindSums, features
from llmservice_core.steps import StepTime
from llmservice_serving.engine_numbers import EngineNumbers

ENOUGH_STEPS = 200
RELEARN_EVERY = 500


class StepTimes:
    def __init__(self, numbers: EngineNumbers, paced: StepTime | None) -> None:
        self._numbers, self._paced = numbers, paced
        self._learned: StepTime | None = None
        self._learned_at = 0

    @property
    def source(self) -> str:
        return "paced" if self._paced is not None else "learned"

    @property
    def believed(self) -> StepTime | None:
        """None: not known yet."""
        if self._paced is not None:
            return self._paced
        steps = self._numbers.steps
        if steps >= ENOUGH_STEPS and (self._learned is None or steps >= self._learned_at + RELEARN_EVERY):
            self._learned, self._learned_at = learned_step_time(self._numbers), steps
        return self._learned


def learned_step_time(numbers: EngineNumbers) -> StepTime | None:
    """The engine's own steps as a linear model in metric_names.FEATURES; None if the sums say nothing yet."""
    with numbers.lock:
        seen = [_sums(k) for k in numbers.kinds.values() if k.steps]
    if not seen or sum(s.total_y for s in seen) <= 0:
        return None
    tile = numbers.limits.tile_tokens
    fit = least_squares.fit(least_squares.add(seen), noise=STEP_NOISE, trust=1.0, most=INDEPENDENT_STEPS)
    return lambda w: fit.predict(features(w, tile))


def _sums(k: KindSums) -> least_squares.Sums:
    xx = dict(zip(PAIRS, k.xx, strict=True))
    return least_squares.from_triangle(k.steps, k.seconds, xx, dict(enumerate(k.xy)), len(FEATURES))
