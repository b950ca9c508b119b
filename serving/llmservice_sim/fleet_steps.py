"""Runs the engines of all pods step by step and hands on what leaves them: first tokens and finished parts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial

from llmservice_sim.engine import Batch, Engine
from llmservice_sim.fleet_agenda import Agenda
from llmservice_sim.fleet_pods import Pod
from llmservice_sim.fleet_requests import Part, Request
from llmservice_sim.fleet_settings import Replica
from llmservice_sim.run import StuckError


class Stepper:
    """`on_first` gets a request whose client sees its first token, `on_done` a part that its engine has finished."""

    def __init__(
        self,
        replica: Replica,
        agenda: Agenda,
        rng: random.Random,
        on_first: Callable[[Request], None],
        on_done: Callable[[Pod, Part], None],
    ) -> None:
        self._step_time, self._noise = replica.step_time, replica.noise
        self._agenda, self._rng = agenda, rng
        self._on_first, self._on_done = on_first, on_done
        self.steps = 0

    def add(self, pod: Pod, part: Part) -> None:
        assert pod.process is not None
        pod.parts[part] = None
        part.request.part = part
        pod.process.engine.add(part)
        self._begin(pod)

    def _begin(self, pod: Pod) -> None:
        if pod.batch is not None or pod.process is None or not pod.process.engine.has_work:
            return
        engine: Engine = pod.process.engine
        now_s = self._agenda.now_s
        batch = engine.schedule(now_s)
        if not batch.tokens:  # decodes were hidden behind prompts that are stuck; the next step hides none
            batch = engine.schedule(now_s)
        if not batch.tokens:
            raise StuckError("an engine has work and can run none of it: its KV cache holds none of these requests")
        seconds = self._step_time(batch.work)
        if self._noise:
            seconds *= math.exp(self._rng.gauss(0.0, self._noise))
        pod.batch = batch
        self._agenda.after(seconds, partial(self._land, pod, pod.starts, batch, seconds))

    def _land(self, pod: Pod, start: int, batch: Batch, seconds: float) -> None:
        if pod.starts != start or pod.process is None:
            return  # the process that ran this step is dead
        pod.batch = None
        self.steps += 1
        done = pod.process.engine.land(batch, self._agenda.now_s, seconds)
        pod.process.counters.step(batch.work, seconds)
        for job in batch.tokens:
            if job.produced == 1 and isinstance(job, Part) and not job.is_prompt_only:
                self._on_first(job.request)
        for job in done:
            assert isinstance(job, Part)
            count_gaps(pod, job)
            del pod.parts[job]
            self._on_done(pod, job)
        self._begin(pod)


def count_gaps(pod: Pod, part: Part) -> None:
    """Takes the gaps since the last time into the engine's counters and the request's own."""
    gaps = part.gaps_s
    if pod.process is None or part.judged == len(gaps):
        return
    new = gaps[part.judged :]
    part.judged = len(gaps)
    target_s = part.request.service_class.tbt.target_s
    late = sum(gap > target_s for gap in new)
    part.request.gaps += len(new)
    part.request.late_gaps += late
    pair = pod.process.counters.gaps[part.request.service_class.name]
    pair[0] += len(new)
    pair[1] += len(new) - late
