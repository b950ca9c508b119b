"""The Azure hour, compressed: both traces that the repository holds (their first 40 minutes), squeezed and thinned.

Times are divided, so load changes so many times faster against a start-up; of the requests a share is kept at random,
so that two cores can replay what is left; lengths are untouched. Conversation is the strict class, code the other.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmservice_sim.traces import Row, read

AZURE = Path(__file__).parents[2] / "bench" / "data" / "azure-2023"
FILES = {"interactive": "conv_0-40min.csv.gz", "batch": "code_0-40min.csv.gz"}
SPAN_S = 2400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Squeeze:
    """The `span_s` from `start_s` on are replayed in `seconds`, at `rate_rps` requests/s on average."""

    seconds: float
    rate_rps: float
    start_s: float = 0.0
    span_s: float = SPAN_S
    longest_tokens: int = 9000
    """Prompt and answer together; longer requests are left out."""
    seed: int = 0

    @property
    def faster(self) -> float:
        return self.span_s / self.seconds


def compressed(squeeze: Squeeze) -> list[Row]:
    """Requests in order of time from 0 to `seconds`, each with its class."""
    rng = random.Random(f"{squeeze.seed}/azure")
    inside = [row for row in _all() if squeeze.start_s <= row.time_s < squeeze.start_s + squeeze.span_s]
    fitting = [row for row in inside if row.prompt_tokens + row.output_tokens <= squeeze.longest_tokens]
    if not fitting:
        return []
    share = squeeze.rate_rps * squeeze.seconds / len(fitting)
    return [_at(row, (row.time_s - squeeze.start_s) / squeeze.faster) for row in fitting if rng.random() < share]


def _all() -> Sequence[Row]:
    return sorted((row for name, file in FILES.items() for row in _of(name, file)), key=lambda r: r.time_s)


def _of(name: str, file: str) -> Iterator[Row]:
    rows = read(AZURE / file)
    assert isinstance(rows, list)
    yield from (replace(row, service_class=name) for row in rows)


def _at(row: Row, time_s: float) -> Row:
    return replace(row, time_s=time_s)
