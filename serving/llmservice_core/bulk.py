"""Parameters of policy slai-plus, and what it learns about the pace of steps."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """Parameters of slai-plus. Widths in tokens of a whole step, decodes included."""

    aim: float = 0.85
    """Share of the TBT target after which the next token is due; the rest is for steps that last longer than that."""
    narrowest: int = 256
    widest: int = 768
    tile: int = 128
    reserve: float = 0.03
    """Share of the KV cache kept from prompts of `long_tokens` and more; shorter ones are kept from less."""
    long_tokens: int = 4000
    mix_from: float = 0.80
    """Share of the KV cache in use from which mixing is weighed: then width is bounded by memory, not by arrivals."""
    decode_margin: float = 1.1
    most_candidates: int = 64
    """So many waiting prompts are looked at for one that fits."""
    strict_first: bool = True
    """Prompts of stricter TBT targets before shorter ones of others."""
    late_last: bool = True
    """Prompts that can no longer meet their TTFT behind all that can."""
    guard_s: float = 60.0
    """A prompt that first-come order would have started so long ago goes before all others: a promise, not a gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much longer steps last than the model says, learned from each step."""

    ratio: float = 1.0
    gain: float = 0.02

    def learn(self, predicted_s: float, measured_s: float) -> Pace:
        """`predicted_s` without the ratio. A step many times slower (a stop of the machine) counts as four times."""
        seen = min(4.0, measured_s / predicted_s) if predicted_s > 0 else self.ratio
        return replace(self, ratio=self.ratio + self.gain * (seen - self.ratio))
