"""One engine through one trace in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmservice_core.steps import StepTime
from llmservice_sim.engine import Engine
from llmservice_sim.jobs import Arrival, Job, job_of


class StuckError(RuntimeError):
    """The engine has work and schedules none of it: a request is larger than the KV cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All requests, ended ones only if `until_s` cut the run; `busy_s` is the time that steps took."""

    jobs: Sequence[Job]
    end_s: float
    steps: int
    busy_s: float
    decodes: float
    hidden: int


def run(trace: Sequence[Arrival], engine: Engine, step_time: StepTime, until_s: float | None = None) -> Result:
    """Until every request is done, or until `until_s`. `trace` in order of time."""
    jobs = [job_of(arrival) for arrival in trace]
    now_s, at, empty = 0.0, 0, 0
    steps, busy_s, decodes, hidden = 0, 0.0, 0.0, 0
    while (at < len(jobs) or engine.has_work) and (until_s is None or now_s < until_s):
        if not engine.has_work or empty > 1:
            if at >= len(jobs):
                raise StuckError("a request waits that does not fit into the KV cache: give the engine more blocks")
            now_s = max(now_s, jobs[at].asked.time_s)
        while at < len(jobs) and jobs[at].asked.time_s <= now_s:
            engine.add(jobs[at])
            at += 1
        batch = engine.schedule(now_s)
        # One empty step only says that decodes were hidden behind prompts that are stuck; two say that nothing can run.
        empty = 0 if batch.tokens else empty + 1
        if not batch.tokens:
            continue
        seconds = step_time(batch.work)
        now_s += seconds
        engine.land(batch, now_s, seconds)
        steps, busy_s, decodes, hidden = (
            steps + 1,
            busy_s + seconds,
            decodes + batch.work.decodes,
            hidden + batch.hidden,
        )
    return Result(jobs=jobs, end_s=now_s, steps=steps, busy_s=busy_s, decodes=decodes, hidden=hidden)
