"""Reads which writes reached an API server, from its audit log, so that a test can count them. Only reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]}],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write that reached the API server, as its audit log has it."""

    verb: str
    resource: str
    namespace: str
    name: str
    user: str
    agent: str
    code: int


def read(log: Path) -> list[Write]:
    """Every write since the API server first started, in order."""
    if not log.exists():
        return []
    # In bytes: str.splitlines would also split at separators of Unicode that names of a bad manifest may hold.
    return [_write(json.loads(line)) for line in log.read_bytes().splitlines()]


def _write(event: dict[str, Any]) -> Write:
    target = event.get("objectRef", {})
    parts = (target.get("resource", ""), target.get("subresource", ""))
    return Write(
        verb=event["verb"],
        resource="/".join(part for part in parts if part),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        user=event["user"].get("username", ""),
        agent=event.get("userAgent", ""),
        code=event.get("responseStatus", {}).get("code", 0),
    )
