"""Finished runs in results.json, each under a fingerprint of all that it depends on: stop, go on, run nothing twice.

A fingerprint covers the sources of the core and the simulator, the service file, this comparison's own way of running
a case, the trace and the settings. What has another fingerprint is not used; runs of other sources are dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.sizing.cases import DATA, ROOT, SERVICE, Case, FromFile

RESULTS = Path(__file__).with_name("results.json")
SOURCES = ("serving/llmservice_core", "serving/llmservice_sim")
OWN = ("cases.py", "units.py")


def fingerprint(case: Case, seconds: float, law: str) -> str:
    """Which laws else run on a case, or what it is called, does not matter."""
    settings = repr(replace(case, name="", laws=(), without=(), full_s=0.0, quick_s=0.0))
    data = _of_trace(case.rows.path) if isinstance(case.rows, FromFile) else ""
    return hashlib.sha256("\n".join((_of_sources(), data, settings, f"{seconds:g}", law)).encode()).hexdigest()[:16]


@cache
def _of_sources() -> str:
    files = [f for folder in SOURCES for f in sorted((ROOT / folder).rglob("*.py"))]
    return _of_files((*files, *(Path(__file__).with_name(name) for name in OWN), SERVICE))


def _sources() -> str:
    return _of_sources()[:16]


@cache
def _of_trace(path: str) -> str:
    """With the lengths and clients beside it."""
    stem = path.split("_windows")[0]
    return _of_files(tuple(sorted(f for f in (DATA / path).parent.iterdir() if str(f).startswith(str(DATA / stem)))))


def _of_files(files: tuple[Path, ...]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()


class Kept:
    """What was run, by fingerprint; written to `path` whole, at once."""

    def __init__(self, path: Path = RESULTS) -> None:
        self._path = path
        found = json.loads(path.read_text()) if path.exists() else {}
        self._runs: dict[str, Any] = {key: run for key, run in found.items() if run["sources"] == _sources()}

    def get(self, key: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self._runs.get(key)
        return found

    def put(self, key: str, case: str, result: Mapping[str, Any]) -> None:
        self._runs[key] = {"case": case, "sources": _sources(), **result}
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps(self._runs, indent=1, sort_keys=True) + "\n")
        beside.replace(self._path)
