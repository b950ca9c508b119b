"""Who asks what and when: files of requests -> rows, with one sentence about what is wrong with a file that is not one.

Formats are told apart by what is in them. Times: seconds from the first row. Nothing is downloaded.

    time_s|arrival_s|time, prompt_tokens, output_tokens[, class]   CSV or JSONL of one's own; Azure as in bench/data
    TIMESTAMP, ContextTokens, GeneratedTokens                      Azure as published (CSV)
    timestamp, input_length, output_length[, hash_ids]             Mooncake (JSONL, milliseconds)
    num_prefill_tokens, num_decode_tokens                          lengths without times (CSV): Poisson at a rate
    t_start_s, rate_rps, ...                                       ServeGen windows (CSV), with two files beside it
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

TIME_COLUMNS = ("time_s", "arrival_s", "time", "TIMESTAMP", "timestamp")
PROMPT_COLUMNS = ("prompt_tokens", "ContextTokens", "input_length", "num_prefill_tokens")
OUTPUT_COLUMNS = ("output_tokens", "GeneratedTokens", "output_length", "num_decode_tokens")
TICK_S = 3.0
"""Mooncake's conversation trace has 3-second ticks: all requests of one share a timestamp."""


class TraceError(ValueError):
    """The file is no trace; the text says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request. `service_class` None: the trace does not say."""

    time_s: float
    prompt_tokens: int
    output_tokens: int
    service_class: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Pairs of prompt and output tokens without arrival times."""

    pairs: Sequence[tuple[int, int]]


def read(path: Path) -> list[Row] | Lengths:
    """A file of requests or of lengths. ServeGen windows are `traces_servegen`'s."""
    records = list(records_of(path))
    if not records:
        raise TraceError(f"{path.name} is empty: give a trace with at least one request")
    columns = _columns(path, records[0])
    if columns.time is None:
        return Lengths(pairs=[_lengths(path, i, record, columns) for i, record in enumerate(records)])
    rows = [_row(path, i, record, columns) for i, record in enumerate(records)]
    _refuse_backwards(path, rows)
    return _spread(rows) if columns.is_milliseconds else rows


def records_of(path: Path) -> Iterator[Mapping[str, Any]]:
    """CSV or JSONL, plain or gzipped."""
    try:
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    except FileNotFoundError:
        raise TraceError(f"there is no file {path}: give the path of a trace") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} cannot be read ({error}): give a CSV or JSONL file, plain or gzipped") from None
    lines = [line for line in text.splitlines() if line.strip()]
    return _json_lines(path, lines) if lines and lines[0].lstrip().startswith("{") else iter(csv.DictReader(lines))


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise TraceError(f"{path.name}, line {number} is no JSON object: write one request per line")
        yield record


@dataclass(frozen=True, slots=True)
class _Columns:
    time: str | None
    prompt: str
    output: str

    @property
    def is_milliseconds(self) -> bool:
        return self.time == "timestamp" and self.prompt == "input_length"


def _columns(path: Path, record: Mapping[str, Any]) -> _Columns:
    prompt = next((name for name in PROMPT_COLUMNS if name in record), None)
    output = next((name for name in OUTPUT_COLUMNS if name in record), None)
    if prompt is None or output is None:
        raise TraceError(
            f"{path.name} has the columns {', '.join(map(str, record))}: name them time_s, prompt_tokens,"
            " output_tokens and, if you like, class"
        )
    return _Columns(next((name for name in TIME_COLUMNS if name in record), None), prompt, output)


def _row(path: Path, index: int, record: Mapping[str, Any], columns: _Columns) -> Row:
    prompt, output = _lengths(path, index, record, columns)
    assert columns.time is not None
    value = record[columns.time]
    try:
        seconds = datetime.fromisoformat(value).timestamp() if columns.time == "TIMESTAMP" else float(value)
    except (TypeError, ValueError):
        raise TraceError(f"{path.name}, request {index + 1} has the time {value!r}: give seconds") from None
    if not 0 <= seconds < float("inf"):
        raise TraceError(f"{path.name}, request {index + 1} has the time {value!r}: give seconds that are not negative")
    return Row(
        time_s=seconds / 1000 if columns.is_milliseconds else seconds,
        prompt_tokens=prompt,
        output_tokens=output,
        service_class=str(record["class"]) if record.get("class") else None,
    )


def _lengths(path: Path, index: int, record: Mapping[str, Any], columns: _Columns) -> tuple[int, int]:
    return _tokens(path, index, record, columns.prompt), _tokens(path, index, record, columns.output)


def _tokens(path: Path, index: int, record: Mapping[str, Any], column: str) -> int:
    value = record.get(column)
    try:
        tokens = int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        tokens = 0
    if tokens < 1:
        raise TraceError(
            f"{path.name}, request {index + 1} has {column} {value!r}: give whole numbers of at least 1 or remove it"
        )
    return tokens


def _refuse_backwards(path: Path, rows: Sequence[Row]) -> None:
    for index, (before, after) in enumerate(pairwise(rows)):
        if after.time_s < before.time_s:
            raise TraceError(
                f"{path.name}, request {index + 2} comes {before.time_s - after.time_s:g} s before the one above it:"
                " sort the trace by time"
            )


def _spread(rows: Sequence[Row]) -> list[Row]:
    """Requests of one tick are spread evenly until the next one, over 3 s at most."""
    found: list[Row] = []
    at = 0
    while at < len(rows):
        end = at
        while end < len(rows) and rows[end].time_s == rows[at].time_s:
            end += 1
        until_s = min(TICK_S, rows[end].time_s - rows[at].time_s) if end < len(rows) else TICK_S
        step_s = until_s / (end - at)
        found += [replace(row, time_s=row.time_s + i * step_s) for i, row in enumerate(rows[at:end])]
        at = end
    return found
