"""Runs the fast engines of all pods: prefill step by step, decode from one join or finish to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from llmservice_core.latency import Work
from llmservice_core.routing import Endpoint
from llmservice_core.steps import StepTime
from llmservice_sim.fast_decode import FastDecode
from llmservice_sim.fast_prefill import FastPrefill
from llmservice_sim.fleet_agenda import Agenda
from llmservice_sim.fleet_counters import EngineCounters
from llmservice_sim.fleet_pods import Pod, PodState
from llmservice_sim.fleet_requests import Part, Request


@dataclass(slots=True, eq=False)
class FastPod(Pod):
    stop: int = 0
    """Number of the next event of its decode engine; earlier ones are void."""
    stop_step: int = 0
    known_as: tuple[object, ...] = ()
    known: Endpoint | None = None
    in_flight: float | None = None
    """Requests in it when a scrape looked last."""

    def endpoint(self) -> Endpoint:
        """Made anew only where it differs."""
        counts = len(self.prompts), len(self.answers)
        now = (self.state, self.process is None, self._work_tokens(), counts, self.prompt_tokens)
        if self.known is None or now != self.known_as:
            self.known_as = now
            self.known = Endpoint(
                name=self.name,
                url="",
                pool=self.pool,
                ready=self.serves,
                draining=self.state is PodState.DRAINING,
                work_tokens=float(now[2]),
                in_flight=sum(counts),
                prompts=counts[0],
                prompt_tokens=self.prompt_tokens,
            )
        return self.known

    def _work_tokens(self) -> float:
        engine = self.process.engine if self.process else None
        owed = engine.owed_tokens() if isinstance(engine, FastDecode) else 0.0
        return self.prompt_tokens + self.reserved_tokens + owed

    def live(self) -> tuple[int, int, int]:
        engine = self.process.engine if self.process else None
        if isinstance(engine, FastDecode):
            return len(engine.waiting), len(engine.prompts.parts), len(engine.batch)
        if isinstance(engine, FastPrefill):
            begun = len(self.parts) - len(engine.queue)
            return len(engine.queue), begun, 0
        return 0, 0, 0


class FastStepper:
    """The same calls as `fleet_steps.Stepper`."""

    def __init__(
        self,
        agenda: Agenda,
        step_time: StepTime,
        on_first: Callable[[Request], None],
        on_done: Callable[[Pod, Part], None],
    ) -> None:
        self._agenda, self._step_time = agenda, step_time
        self._on_first, self._on_done = on_first, on_done
        self.steps = 0

    def add(self, pod: Pod, part: Part) -> None:
        assert isinstance(pod, FastPod)
        assert pod.process is not None
        pod.parts[part] = None
        part.request.part = part
        engine = pod.process.engine
        if isinstance(engine, FastPrefill):
            engine.add(part, self._agenda.now_s)
            if not engine.is_busy:
                self._prefill(pod, engine)
            return
        assert isinstance(engine, FastDecode)
        self._joins(pod, engine, part)

    # Prefill

    def _prefill(self, pod: FastPod, engine: FastPrefill) -> None:
        chunks = engine.step(self._agenda.now_s)
        if chunks and pod.process is not None:
            work = engine.work(chunks)
            seconds = self._step_time(work)
            counters = pod.process.counters
            self._agenda.after(seconds, partial(self._landed, pod, engine, chunks, counters, work, seconds))

    def _landed(
        self,
        pod: FastPod,
        engine: FastPrefill,
        chunks: list[tuple[Part, int]],
        counters: EngineCounters,
        work: Work,
        seconds: float,
    ) -> None:
        if pod.process is None or pod.process.engine is not engine:
            return
        self.steps += 1
        counters.step(work, seconds)
        for part in engine.landed(chunks, self._agenda.now_s):
            part.produced = 1
            self._done(pod, part)
        if pod.process is not None and not engine.is_busy:
            self._prefill(pod, engine)

    # Decode

    def _joins(self, pod: FastPod, engine: FastDecode, part: Part) -> None:
        now_s = self._agenda.now_s
        engine.add(part, (part.tbt_s or 0.0, float(part.known), part.arrival_s))
        if engine.is_idle:
            engine.time_s = now_s
            self._go_on(pod, engine)
            return
        until = engine.step + engine.steps_until(now_s, whole=False)
        if until < pod.stop_step:
            self._stop_at(pod, engine, until)

    def _go_on(self, pod: FastPod, engine: FastDecode) -> None:
        """At the end of a step: who waits comes in, then nothing happens until the next stop."""
        engine.relieve()
        admitted = engine.admit()
        if admitted:
            first_s = engine.time_s + engine.seconds(1)
            for part in admitted:
                if not part.preemptions:
                    self._agenda.at(first_s, partial(self._first, pod, engine, part))
        steps = engine.next_stop()
        if steps is not None:
            self._stop_at(pod, engine, engine.step + steps)

    def _stop_at(self, pod: FastPod, engine: FastDecode, step: int) -> None:
        pod.stop, pod.stop_step = pod.stop + 1, step
        time_s = engine.time_s + engine.seconds(step - engine.step)
        self._agenda.at(time_s, partial(self._stopped, pod, engine, pod.stop))

    def _first(self, pod: FastPod, engine: FastDecode, part: Part) -> None:
        if pod.process is not None and pod.process.engine is engine:
            self._on_first(part.request)

    def _stopped(self, pod: FastPod, engine: FastDecode, stop: int) -> None:
        if pod.process is None or pod.process.engine is not engine or stop != pod.stop:
            return
        self._advance(engine, pod.stop_step - engine.step, self._agenda.now_s)
        for part in engine.prompts.take_done():
            self._on_first(part.request)
        for part in engine.finished():
            self._on_first(part.request)
            self._done(pod, part)
        if pod.process is not None:
            self._go_on(pod, engine)

    def _advance(self, engine: FastDecode, steps: int, time_s: float) -> None:
        self.steps += steps
        engine.advance(steps, time_s)

    def catch_up(self, pod: Pod) -> None:
        """Counts the steps that have ended by now, as a scrape does."""
        engine = pod.process.engine if pod.process else None
        if isinstance(pod, FastPod) and isinstance(engine, FastDecode) and not engine.is_idle:
            ended = min(engine.steps_until(self._agenda.now_s, whole=True), pod.stop_step - engine.step)
            if ended > 0:
                self._advance(engine, ended, engine.time_s + engine.seconds(ended))

    def lost(self, pod: Pod, part: Part) -> None:
        """Its engine is gone: what it did counts."""
        engine = pod.process.engine if pod.process else None
        if isinstance(engine, FastDecode):
            self.catch_up(pod)
            engine.lost(part)

    def _done(self, pod: FastPod, part: Part) -> None:
        pod.parts.pop(part, None)
        self._on_done(pod, part)
