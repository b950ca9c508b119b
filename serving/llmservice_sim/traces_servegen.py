"""Requests out of ServeGen's windows: rates and length quantiles of production, no single requests (2505.09999).

`<model>_windows.csv` has the rate of each 10-minute window, `<model>_length_quantiles_6h.csv` beside it the lengths,
and `<model>_clients.csv`, where it is there, each client's rate and the shape of its gaps. All may be gzipped. Clients
are superposed, each with gaps of its own family rescaled to its rate; without them arrivals are Poisson in a window.
Prompt and output lengths are drawn independently: only their marginals were published.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmservice_sim.traces import Row, TraceError, records_of

WINDOW_S = 600.0
LENGTHS_S = 21_600.0
END = "_windows.csv"


def is_servegen(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(END)


@dataclass(frozen=True, slots=True)
class Stream:
    """One client in one window, or all of them: a rate and gaps in units of their mean."""

    start_s: float
    rate_rps: float
    gap: Callable[[random.Random], float]


def read(path: Path, rng: random.Random, *, start_s: float, seconds: float, rate_rps: float | None) -> list[Row]:
    """Requests of [start_s, start_s + seconds), from 0; `rate_rps`: the mean that the rates are scaled to."""
    windows = [(float(r["t_start_s"]), float(r["rate_rps"])) for r in records_of(path)]
    used = [(t, rate) for t, rate in windows if t + WINDOW_S > start_s and t < start_s + seconds and rate > 0]
    if not used:
        raise TraceError(f"{path.name} has no traffic from second {start_s:g} on: choose another --start or --seconds")
    mean = sum(rate for _, rate in used) / len(used)
    scale = 1.0 if rate_rps is None else rate_rps / mean
    clients = _beside(path, "_clients.csv")
    streams = list(_clients(clients, used)) if clients else [Stream(t, rate, _exponential) for t, rate in used]
    end_s = start_s + seconds
    times = [t for s in streams for t in _times(s, scale, rng) if start_s <= t < end_s]
    lengths = _Lengths(path)
    drawn = [(t - start_s, *lengths.draw(t, rng)) for t in sorted(times)]
    rows = [Row(time_s=t, prompt_tokens=prompt, output_tokens=output) for t, prompt, output in drawn]
    if not rows:
        raise TraceError(f"{path.name} makes no request in {seconds:g} s: raise --rate or --seconds")
    return rows


def _beside(path: Path, end: str) -> Path | None:
    stem = path.name.removesuffix(".gz").removesuffix(END)
    return next((f for f in (path.with_name(stem + end + gz) for gz in ("", ".gz")) if f.exists()), None)


def _clients(path: Path, windows: Iterable[tuple[float, float]]) -> Iterator[Stream]:
    """Those of the windows in use; a window that no client is listed for is Poisson."""
    rates, listed = dict(windows), set()
    for r in records_of(path):
        start_s = float(r["t_start_s"])
        if start_s in rates:
            listed.add(start_s)
            yield Stream(start_s, float(r["rate_rps"]), _family(r))
    yield from (Stream(t, rate, _exponential) for t, rate in rates.items() if t not in listed)


def _exponential(rng: random.Random) -> float:
    return rng.expovariate(1.0)


def _family(r: Mapping[str, Any]) -> Callable[[random.Random], float]:
    """Gaps of the fitted family with mean 1."""
    if r["iat_family"] not in ("Gamma", "Weibull") or not r["shape"]:
        return _exponential
    shape = float(r["shape"])
    if r["iat_family"] == "Gamma":
        return lambda rng: rng.gammavariate(shape, 1.0 / shape)
    mean = math.gamma(1.0 + 1.0 / shape)
    return lambda rng: rng.weibullvariate(1.0 / mean, shape)


def _times(s: Stream, scale: float, rng: random.Random) -> Iterator[float]:
    """A renewal process that was running before the window: its first gap begins at a uniform point."""
    gap_s = 1.0 / (s.rate_rps * scale)
    at_s = s.start_s - rng.random() * gap_s * s.gap(rng)
    while (at_s := at_s + gap_s * s.gap(rng)) < s.start_s + WINDOW_S:
        if at_s >= s.start_s:
            yield at_s


class _Lengths:
    """Quantiles of 6-hour windows, read as straight lines between them."""

    def __init__(self, path: Path) -> None:
        found = _beside(path, "_length_quantiles_6h.csv")
        if found is None:
            wanted = path.name.replace(END, "_length_quantiles_6h.csv")
            raise TraceError(f"{path.name} has no lengths beside it: put {wanted} into the same folder")
        self._grids: dict[tuple[int, str], tuple[Sequence[float], Sequence[float]]] = {}
        for r in records_of(found):
            grid = [(float(name[1:]) / 100, float(v)) for name, v in r.items() if name[:1] == "p" and v]
            shares, values = zip(*grid, strict=True)
            self._grids[round(float(r["t_start_s"]) / LENGTHS_S), r["field"]] = (shares, values)

    def draw(self, time_s: float, rng: random.Random) -> tuple[int, int]:
        window = int(time_s // LENGTHS_S)
        return self._one(window, "input_tokens", rng.random()), self._one(window, "output_tokens", rng.random())

    def _one(self, window: int, field: str, share: float) -> int:
        known = [w for w, f in self._grids if f == field and w <= window]
        shares, values = self._grids[max(known, default=0), field]
        at = bisect_right(shares, share)
        if at in (0, len(shares)):
            return max(1, round(values[min(at, len(values) - 1)]))
        part = (share - shares[at - 1]) / (shares[at] - shares[at - 1])
        return max(1, round(values[at - 1] + part * (values[at] - values[at - 1])))
