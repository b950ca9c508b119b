"""From a trace to the arrivals of a service: which part of it, at which rate, and of which class each is."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from llmservice_core.model import ServiceClass
from llmservice_sim import traces, traces_servegen
from llmservice_sim.jobs import Arrival
from llmservice_sim.traces import Lengths, Row, TraceError

SAMPLE = "azure_conversation_sample.csv"
DEFAULT_SECONDS = 600.0
DEFAULT_RATE_RPS = 5.0
"""For lists of lengths, which have neither times nor a rate."""
NEAR_S = 15.0
NEAR_ROWS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Seconds of the trace from `start_s` on (None: all, or 600 s where it has no end), scaled to a mean rate."""

    start_s: float = 0.0
    seconds: float | None = None
    rate_rps: float | None = None


def sample_path() -> Path:
    """The small trace in the package."""
    return Path(str(files("llmservice_sim").joinpath("data", SAMPLE)))


def rows_of(path: Path, cut: Cut, seed: int) -> list[Row]:
    """Requests in order of time, the first second of the cut being 0."""
    rng = random.Random(f"{seed}/arrivals")
    if traces_servegen.is_servegen(path):
        seconds = DEFAULT_SECONDS if cut.seconds is None else cut.seconds
        return traces_servegen.read(path, rng, start_s=cut.start_s, seconds=seconds, rate_rps=cut.rate_rps)
    found = traces.read(path)
    return _poisson(found, cut, rng) if isinstance(found, Lengths) else _timed(path, found, cut, rng)


def _poisson(lengths: Lengths, cut: Cut, rng: random.Random) -> list[Row]:
    rate = DEFAULT_RATE_RPS if cut.rate_rps is None else cut.rate_rps
    seconds = DEFAULT_SECONDS if cut.seconds is None else cut.seconds
    now_s, rows = 0.0, []
    while (now_s := now_s + rng.expovariate(rate)) < seconds:
        prompt, output = rng.choice(lengths.pairs)
        rows.append(Row(time_s=now_s, prompt_tokens=prompt, output_tokens=output))
    if not rows:
        raise TraceError(f"{rate:g} requests/s for {seconds:g} s make no request: raise --rate or --seconds")
    return rows


def _timed(path: Path, rows: Sequence[Row], cut: Cut, rng: random.Random) -> list[Row]:
    first_s = rows[0].time_s
    end_s = float("inf") if cut.seconds is None else cut.start_s + cut.seconds
    kept = [_at(r, r.time_s - first_s - cut.start_s) for r in rows if cut.start_s <= r.time_s - first_s < end_s]
    if not kept:
        raise TraceError(f"{path.name} has no request from second {cut.start_s:g} on: lower --start or raise --seconds")
    if cut.rate_rps is None:
        return kept
    span_s = kept[-1].time_s
    if span_s <= 0:
        raise TraceError(f"{path.name} has no rate, for all its requests come at once: leave --rate out")
    scaled = _scaled(kept, cut.rate_rps * span_s / len(kept), rng)
    if not scaled:
        raise TraceError(f"{path.name} makes no request at {cut.rate_rps:g} requests/s: raise --rate")
    return scaled


def _scaled(rows: Sequence[Row], factor: float, rng: random.Random) -> list[Row]:
    """So many times the requests in the same time, so that load changes as fast as it did against a start-up.

    A request that is there twice comes again up to 15 s before or after, with the lengths of one near it.
    """
    found, last_s = [], rows[-1].time_s
    for at, row in enumerate(rows):
        copies = int(factor) + (rng.random() < factor % 1.0)
        found += [row] * min(copies, 1)
        for _ in range(copies - 1):
            near = rows[min(len(rows) - 1, max(0, at + rng.randint(-NEAR_ROWS, NEAR_ROWS)))]
            found.append(_at(near, min(last_s, max(0.0, row.time_s + rng.uniform(-NEAR_S, NEAR_S)))))
    return sorted(found, key=lambda r: r.time_s)


def _at(row: Row, time_s: float) -> Row:
    return replace(row, time_s=time_s)


def arrivals(
    rows: Sequence[Row], classes: Sequence[ServiceClass], shares: Mapping[str, float], seed: int
) -> list[Arrival]:
    """Each request with its class: the trace's own, else drawn by `shares` (missing ones: equal parts)."""
    rng, by_name = random.Random(f"{seed}/classes"), {c.name: c for c in classes}
    weights = _weights(by_name, shares)
    found = []
    for index, row in enumerate(rows):
        name = row.service_class
        if name is None:
            (name,) = rng.choices(list(by_name), weights)
        elif name not in by_name:
            raise TraceError(
                f"request {index + 1} is of class {name!r}, the service has {', '.join(by_name)}: rename it"
            )
        found.append(
            Arrival(
                time_s=row.time_s,
                prompt_tokens=row.prompt_tokens,
                output_tokens=row.output_tokens,
                service_class=name,
                tbt_s=by_name[name].tbt.target_s,
                ttft_s=by_name[name].ttft.target_s,
            )
        )
    return found


def _weights(by_name: Mapping[str, ServiceClass], shares: Mapping[str, float]) -> list[float]:
    unknown = [name for name in shares if name not in by_name]
    if unknown:
        raise TraceError(f"the service has no class {unknown[0]!r}: give shares for {', '.join(by_name)}")
    if not shares:
        return [1.0] * len(by_name)
    return [shares.get(name, 0.0) for name in by_name]
