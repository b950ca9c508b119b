"""Remembers which cluster is up and how it is reached, so that any later command finds it. One per user."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from e2e.cluster import paths
from e2e.cluster.processes import Process


class Way(StrEnum):
    """How the cluster came to be."""

    NAMED = "named"  # a kubeconfig and a context that somebody named; never created or deleted by us
    DOCKER = "docker"  # kind on the machine's docker engine
    HERMETIC = "hermetic"  # kind on our own docker engine, in an enclosure without uplink


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What must be known to use a cluster and to take it away again."""

    way: Way
    context: str
    ready: bool = False
    engine: Process | None = None
    tunables: dict[str, str] = field(default_factory=dict)


def folder() -> Path:
    return paths.run_state("cluster")


def kubeconfig() -> Path:
    """The kubeconfig of whatever cluster is up."""
    return folder() / "kubeconfig"


def load() -> State | None:
    """The cluster that is up, or half up; None when there is none."""
    if not _file().exists():
        return None
    record: dict[str, Any] = json.loads(_file().read_text())
    engine = record.pop("engine")
    if engine is not None:
        engine = Process(**{**engine, "log": Path(engine["log"])})
    return State(**{**record, "way": Way(record["way"]), "engine": engine})


def save(state: State) -> None:
    """Whole or not at all: what is remembered must be true even when we are killed here."""
    folder().mkdir(parents=True, exist_ok=True)
    part = _file().with_suffix(".part")
    part.write_text(json.dumps(dataclasses.asdict(state), default=str, indent=2))
    os.replace(part, _file())


def forget() -> None:
    for file in (_file(), kubeconfig(), folder() / "kind.json"):
        file.unlink(missing_ok=True)


def _file() -> Path:
    return folder() / "state.json"
