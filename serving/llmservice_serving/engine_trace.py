"""The steps of an engine as a Chrome trace: LLMSERVICE_TRACE=FILE, then look at it in ui.perfetto.dev. No vLLM.

One track for the engine (a slice per step: its kind, tokens, what was predicted) and one for each request: its chunks
and decodes, and the steps that a plan let it sit out. Trace Event Format, a JSON array that is never closed, as viewers
allow: an engine may be killed at any time. With several engines in one process tree each writes FILE.<pid>.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from llmservice_core import contract
from llmservice_core.steps import StepPlan
from llmservice_serving.engine_steps import Flight

log = logging.getLogger("vllm.llmservice")
MOST_BYTES = 256 * 2**20
ENGINE = 0


class Trace:
    def __init__(self, path: Path) -> None:
        self._file: IO[str] | None = path.open("w", buffering=1 << 16)
        self._file.write("[\n")
        self._written = 0
        self._known: set[str] = set()
        self._event({"ph": "M", "name": "thread_name", "pid": 1, "tid": ENGINE, "args": {"name": "engine steps"}})

    def step(
        self, flight: Flight, started_s: float, ended_s: float, scheduled: Mapping[str, int], seats: Mapping[str, Any]
    ) -> None:
        """A step has ended, its tokens not counted yet. `scheduled`: tokens by request; who is gone is left out."""
        if self._file is None:
            return
        at_us, us = round(started_s * 1e6), round((ended_s - started_s) * 1e6)
        plan, work = flight.plan, flight.work
        arguments = {
            "prompt_tokens": work.new_tokens, "decodes": work.decodes, "chunks": work.chunks,
            "decode_kv_tokens": work.decode_kv_tokens, "sat_out": len(flight.sat_out), **_of_plan(plan),
        }  # fmt: skip
        self._slice(plan.mode.value if plan is not None else "vLLM", ENGINE, at_us, us, arguments)
        for request_id, tokens in scheduled.items():
            self._request(seats.get(request_id), request_id, tokens, at_us, us)
        for request_id in flight.sat_out:
            self._request(seats.get(request_id), request_id, 0, at_us, us)
        self._file.flush()
        if self._written > MOST_BYTES:
            log.warning("trace ends here: %d MiB are written", MOST_BYTES >> 20)
            self.close()

    def _request(self, seat: Any, request_id: str, tokens: int, at_us: int, us: int) -> None:
        if seat is None:
            return
        if request_id not in self._known:
            self._known.add(request_id)
            name = f"{seat.service_class} {seat.prompt_tokens} tokens, TBT {seat.tbt_s or '-'} s ({request_id})"
            metadata = {"ph": "M", "name": "thread_name", "pid": 1, "tid": seat.serial + 1, "args": {"name": name}}
            self._event(metadata)
        what = "waits" if not tokens else "decode" if tokens == 1 and seat.produced else f"prefill {tokens}"
        self._slice(what, seat.serial + 1, at_us, us, {})

    def _slice(self, name: str, track: int, at_us: int, us: int, arguments: Mapping[str, Any]) -> None:
        self._event({"ph": "X", "name": name, "pid": 1, "tid": track, "ts": at_us, "dur": us, "args": arguments})

    def _event(self, event: Mapping[str, Any]) -> None:
        assert self._file is not None
        line = json.dumps(event, separators=(",", ":"))
        self._written += len(line) + 2
        self._file.write(line + ",\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _of_plan(plan: StepPlan | None) -> dict[str, Any]:
    if plan is None:
        return {}
    known = {"predicted_ms": plan.predicted_s, "slack_ms": plan.slack_s if plan.slack_s < 1e6 else None}
    return {key: round(seconds * 1e3, 3) for key, seconds in known.items() if seconds is not None}


def from_environment() -> Trace | None:
    """None without LLMSERVICE_TRACE, or when the file cannot be written: one line, not a dead engine."""
    wanted = os.environ.get(contract.ENV_TRACE)
    if not wanted:
        return None
    path = Path(f"{wanted}.{os.getpid()}") if Path(wanted).exists() else Path(wanted)
    try:
        return Trace(path)
    except OSError as e:
        log.error("no trace: %s cannot be written (%s)", path, e)
        return None
