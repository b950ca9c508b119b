"""What a run on the cluster was like, as one compact file: load, sizes over time, start-ups, what clients saw.

Times are seconds since the first request was due; what was there before it has negative ones. No path and no name of
the machine is in it.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, in tokens of the engine's own (tiny) model. `ttft_s` None: no token came; `error` None: it ended."""

    time_s: float
    service_class: str
    prompt_tokens: int
    output_tokens: int
    ttft_s: float | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """From this time on; `held`: pods that exist, whatever they do, and so hold their GPUs."""

    time_s: float
    desired: Mapping[str, int]
    ready: Mapping[str, int]
    held: Mapping[str, int]
    waiting_tokens: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodStart:
    pool: str
    created_s: float
    ready_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A decision as the service's history tells it."""

    time_s: float
    before: Mapping[str, int]
    after: Mapping[str, int]
    reason: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """`facts`: when, on what, with which code, how many paced steps overran. `service`: the manifest without what only
    this machine needs. `limits`: what engines said of themselves. `gaps_s`: quantiles of each class's chunk gaps."""

    facts: Mapping[str, Any]
    service: Mapping[str, Any]
    pace: str
    scrape_s: float
    limits: Mapping[str, float]
    ready_s: float
    """When the service was Ready, before the first request."""
    end_s: float
    requests: Sequence[Asked]
    sizes: Sequence[Sizes]
    pods: Sequence[PodStart]
    changes: Sequence[Change]
    gaps_s: Mapping[str, Sequence[tuple[float, float]]]
    gaps_in_time: Mapping[str, float | None]
    """Share of each class's chunk gaps within its target."""

    @property
    def interval_s(self) -> float:
        return float(str(self.service["spec"]["scaling"]["interval"]).removesuffix("s"))


ROWS = {"requests": Asked, "sizes": Sizes, "pods": PodStart, "changes": Change}
"""Kept as rows under their column names: a third of the size of objects."""


def write(path: Path, recording: Recording) -> None:
    data = {f.name: getattr(recording, f.name) for f in fields(Recording)}
    for name, kind in ROWS.items():
        columns = [f.name for f in fields(kind)]
        rows = [asdict(row) for row in data[name]]
        data[name] = {"columns": columns, "rows": [[_short(row[c]) for c in columns] for row in rows]}
    text = json.dumps({"format": FORMAT, **data}, separators=(",", ":"), sort_keys=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def read(path: Path) -> Recording:
    """ValueError: not a recording of this format."""
    data = json.loads(gzip.decompress(path.read_bytes()))
    if data.pop("format", None) != FORMAT:
        raise ValueError(f"{path.name} is no recording of format {FORMAT}: record it anew")
    for name, kind in ROWS.items():
        columns = data[name]["columns"]
        data[name] = [kind(**dict(zip(columns, row, strict=True))) for row in data[name]["rows"]]
    return Recording(**data)


def _short(value: Any) -> Any:
    """Milliseconds are enough."""
    return round(value, 3) if isinstance(value, float) else value
