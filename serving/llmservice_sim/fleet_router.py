"""The router of the simulated service: core/routing chooses, this keeps what was sent where and counts what came of it.

It differs from the real one in one thing: it knows how long a prompt is (the real one learns tokens per byte). How long
an answer will be it predicts, per class, with the core's predictor.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

from llmservice_core import metric_names as names
from llmservice_core.line import Line, Waiter
from llmservice_core.model import Calls
from llmservice_core.picking import UNBOUNDED
from llmservice_core.routing import Predictor, Route, RouteReason, choose, decode_instead
from llmservice_sim.fleet_agenda import Agenda
from llmservice_sim.fleet_counters import RouterCounters
from llmservice_sim.fleet_pods import Pod
from llmservice_sim.fleet_requests import Outcome, Part, Request
from llmservice_sim.fleet_settings import Scenario
from llmservice_sim.jobs import Arrival, job_fields


class Router:
    """`start` puts a part into a pod's engine, `ended` gets each request exactly once, `left` a pod that lost work."""

    def __init__(
        self,
        scenario: Scenario,
        agenda: Agenda,
        rng: random.Random,
        pods: Collection[Pod],
        start: Callable[[Pod, Part], None],
        ended: Callable[[Request], None],
        left: Callable[[Pod], None],
    ) -> None:
        self._scenario, self._agenda, self._rng, self._pods = scenario, agenda, rng, pods
        self._start, self._ended, self._left = start, ended, left
        self.counters = RouterCounters(scenario.goal.classes)
        self._predictor = Predictor(output_tokens={})
        self._line = Line()
        self._waiting: dict[Waiter, Request] = {}
        self._patient: set[Waiter] = set()
        """Those whose time without any engine is running."""
        self._prefill: dict[Request, Pod] = {}
        self._decode: dict[Request, Pod] = {}
        """Where requests are, or have a place reserved."""
        self._open = 0
        self._asked_s: float | None = None
        may_sleep = scenario.goal.may_sleep
        self._patience_s = scenario.wait_for_start_s if may_sleep else scenario.wait_for_engine_s

    def arrive(self, request: Request) -> None:
        name = request.service_class.name
        self.counters.add(name, names.ARRIVALS)
        if request.asked.prompt_tokens + request.asked.output_tokens > self._scenario.context_tokens:
            self._end(request, Outcome.REFUSED)
            return
        self._open += 1
        request.predicted_output = self._predictor.output(name, None)
        self._prompt_waits(request, True)
        self._agenda.after(request.service_class.ttft.target_s, partial(self._judge, request, False))
        self._wait(request)

    def calls(self) -> Calls:
        """What the operator would be told: nothing waits for its answer here, so it is as of now."""
        now_s = self._agenda.now_s
        last_s = None if self._asked_s is None else now_s - self._asked_s
        if self._open:
            last_s = 0.0
        return Calls(quiet_s=now_s if last_s is None else last_s, last_s=last_s, waiting=len(self._waiting))

    def fleet_changed(self) -> None:
        """Pods came or went."""
        self._pump()

    def _wait(self, request: Request) -> None:
        """In the line, as production's: one that an engine failed does not wait a second time for room."""
        waiter = Waiter(
            service_class=request.service_class.name,
            tenant=request.asked.tenant,
            arrival_s=request.asked.time_s,
            ttft_s=request.service_class.ttft.target_s,
            prompt_tokens=request.asked.prompt_tokens,
            is_charged=request.attempts > 0,
        )
        self._waiting[waiter] = request
        self._line.add(waiter)
        self._pump()

    def _pump(self) -> None:
        """Sends on whose turn it is, while an engine has room."""
        while (waiter := self._line.first(self._agenda.now_s)) is not None:
            room = UNBOUNDED if waiter.is_charged else self._scenario.room
            route = choose(
                [p.endpoint() for p in self._pods],
                policy=self._scenario.routing,
                draw=self._rng.random(),
                room=room,
            )
            if not isinstance(route, Route):
                if route.reason is not RouteReason.FULL:
                    self._expect_an_engine()
                return
            self._line.take(waiter)
            self._send(self._waiting.pop(waiter), route)

    def _expect_an_engine(self) -> None:
        """Nobody waits for one longer than the router's patience."""
        for waiter in self._waiting.keys() - self._patient:
            self._patient.add(waiter)
            self._agenda.after(self._patience_s, partial(self._give_up, waiter))

    def _give_up(self, waiter: Waiter) -> None:
        self._patient.discard(waiter)
        if waiter not in self._waiting:
            return
        if any(p.endpoint().is_usable for p in self._pods):
            self._pump()  # it waits for room now, or for the other pool
        if waiter in self._waiting and not isinstance(choose([p.endpoint() for p in self._pods]), Route):
            self._line.remove(waiter)
            self._end(self._waiting.pop(waiter), Outcome.SHED)

    def _send(self, request: Request, route: Route) -> None:
        request.attempts += 1
        by_name = {p.name: p for p in self._pods}
        decode = self._decode[request] = by_name[route.decode.name]
        decode.reserve(request)
        prefill = self._prefill[request] = by_name[route.prefill.name] if route.prefill else decode
        prefill.take_prompt(request)
        if prefill is decode:
            decode.begin_answer(request)
            self._start(decode, Part(**job_fields(request.asked), request=request))
        else:
            self._start(prefill, Part(**job_fields(_prompt_of(request.asked)), request=request, is_prompt_only=True))

    def part_done(self, pod: Pod, part: Part) -> None:
        request = part.request
        request.part = None
        if part.is_prompt_only:
            self._move_kv(pod, request)
            return
        request.tokens = part.produced
        name = request.service_class.name
        self.counters.add(name, names.ANSWERS)
        self.counters.add(name, names.OUTPUT_TOKENS, part.produced)
        self._predictor = self._predictor.learn_output(name, part.produced)
        self._end(request, Outcome.OK)

    def _move_kv(self, source: Pod, request: Request) -> None:
        """The prefill replica's link carries one transfer after the other."""
        self._prompt_computed(request)
        decode = self._usable_decode(request)
        size = request.asked.prompt_tokens * self._scenario.replica.kv_bytes_per_token
        begin_s = max(self._agenda.now_s, source.link_free_s)
        source.link_free_s = begin_s + self._scenario.link.seconds(size)
        self._agenda.at(source.link_free_s, partial(self._kv_arrived, request, decode, decode.starts))

    def _usable_decode(self, request: Request) -> Pod:
        """The reserved pod, or another one that the core chooses if that one may take nothing any more."""
        reserved = self._decode[request]
        if reserved.endpoint().is_usable:
            return reserved
        instead = decode_instead([p.endpoint() for p in self._pods], reserved.endpoint())
        if instead.name == reserved.name:
            return reserved
        self._leave(request, self._decode)
        decode = self._decode[request] = next(p for p in self._pods if p.name == instead.name)
        decode.reserve(request)
        return decode

    def _kv_arrived(self, request: Request, pod: Pod, start: int) -> None:
        """The decode engine computes the last prompt token again, and with it the client's first token."""
        if request.outcome is not None or self._decode.get(request) is not pod or request.part is not None:
            return
        if not pod.serves or pod.starts != start:
            self.lost(request)
            return
        pod.begin_answer(request)
        arrived: dict[str, Any] = {"computed": request.asked.prompt_tokens - 1, "is_remote": True}
        self._start(pod, Part(**job_fields(request.asked), **arrived, request=request))

    def first_token(self, request: Request) -> None:
        if request.first_token_s is not None:
            return
        request.first_token_s = self._agenda.now_s
        self._judge(request, request.is_ttft_met)
        if request in self._prefill:
            self._prompt_computed(request)

    def _prompt_computed(self, request: Request) -> None:
        name = request.service_class.name
        self.counters.add(name, names.PROMPTS)
        self.counters.add(name, names.PROMPT_TOKENS, request.asked.prompt_tokens)
        self._prompt_waits(request, False)
        self._leave(request, self._prefill)
        self._pump()

    def lost(self, request: Request) -> None:
        """Its engine is gone. Another one may try while the client has seen nothing."""
        if request.outcome is not None:
            return
        request.part = None
        self._release(request)
        if request.first_token_s is not None or request.attempts >= self._scenario.attempts:
            self._end(request, Outcome.FAILED)
            return
        self._prompt_waits(request, True)
        self._wait(request)

    def _end(self, request: Request, outcome: Outcome) -> None:
        request.outcome, request.ended_s = outcome, self._agenda.now_s
        self._prompt_waits(request, False)
        self._release(request)
        if outcome is Outcome.REFUSED:
            request.is_judged = True
        else:
            self._open, self._asked_s = self._open - 1, self._agenda.now_s
        if outcome not in (Outcome.OK, Outcome.REFUSED):
            self._judge(request, False)
        self._ended(request)

    def _judge(self, request: Request, is_good: bool) -> None:
        """Once: by the first token, or by the target when that passes first."""
        if not request.is_judged:
            request.is_judged = True
            self.counters.judge(request.service_class.name, is_good)

    def _prompt_waits(self, request: Request, waits: bool) -> None:
        if request.is_waiting_prompt is not waits:
            request.is_waiting_prompt = waits
            self.counters.waiting_prompt_tokens += request.asked.prompt_tokens * (1 if waits else -1)

    def _release(self, request: Request) -> None:
        self._leave(request, self._prefill)
        self._leave(request, self._decode)

    def _leave(self, request: Request, places: dict[Request, Pod]) -> None:
        pod = places.pop(request, None)
        if pod is not None:
            (pod.drop_prompt if places is self._prefill else pod.drop_answer)(request)
            self._left(pod)


def _prompt_of(asked: Arrival) -> Arrival:
    """What a prefill engine gets: the prompt and one token."""
    return replace(asked, output_tokens=1)
