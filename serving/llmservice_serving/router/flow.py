"""One generation request from its route to its last byte: prefill and decode in two steps, or one step; retries.

Failures are retried elsewhere while the client has got nothing, and after that where `resume` says that another engine
can go on. Accounting of outcomes is in `handlers`.
"""

import asyncio
import logging
import time
from contextlib import AbstractContextManager, ExitStack
from functools import partial

from aiohttp import web

from llmservice_core.picking import Policy
from llmservice_core.prompt_pace import Expected
from llmservice_core.routing import Route
from llmservice_serving.router import resume, rules, sse
from llmservice_serving.router.attempts import Attempts
from llmservice_serving.router.client_side import REQUEST_ID, ClientStream, TtftJudge, log_line
from llmservice_serving.router.errors import ENGINE_FIELDS, JSON, EngineFailure, Overload, Refusal, Shed, broken
from llmservice_serving.router.fleet import Lease
from llmservice_serving.router.grants import Grant
from llmservice_serving.router.relay import Relay
from llmservice_serving.router.state import Shared
from llmservice_serving.router.waiting_room import Seeker

AGAIN_S = 0.1
"""A stream that has begun asks again for an engine where a new request would be refused for want of one."""

PATIENCE = 2.0
"""Of TTFT targets: a first token that comes twice as late as promised is still better than none."""


class Flow:
    """State of one request. Used once, by one task."""

    def __init__(
        self,
        shared: Shared,
        ask: rules.Ask,
        stream: ClientStream,
        request_id: str,
        arrived_s: float,
        session: str | None = None,
    ):
        self._shared, self._ask, self._stream = shared, ask, stream
        self._request_id, self._arrived_s, self._session = request_id, arrived_s, session
        self._prompt_tokens = shared.predicted_prompt(ask)
        self._output_tokens = shared.predictor.output(ask.service_class.name, ask.limit_tokens)
        self._tried: set[str] = set()
        self._attempts = Attempts(most=shared.settings.max_attempts, patience_s=shared.settings.resume_wait_s)
        self._relay = Relay(shared, ask, stream)
        self._came = 0
        self._model: str | None = None
        """Of the engine that brought the first token of a stream; None: there is none yet."""
        self._failure: EngineFailure | None = None
        self._not_resumed = resume.NO_ENGINE
        self._rest: resume.Continuation | None = None
        """What is still to be computed when another engine had begun."""
        self._phase = ExitStack()
        self._parts: dict[str, float] = {}
        self.judge: TtftJudge | None = None
        if ask.is_stream:
            c = ask.service_class
            self.judge = TtftJudge(c.ttft.target_s, arrived_s, lambda ok: shared.metrics.judge_ttft(c, ok))
        self._used_tokens: float | None = None
        self._waiter = shared.waiter(ask, arrived_s)
        self._expected: Expected | None = None

    @property
    def retries(self) -> int:
        return self._attempts.retries

    @property
    def used_tokens(self) -> float | None:
        """Of prompt and answer, until now: as the engine counted, else as far as a stream came; None: unknown."""
        if self._used_tokens is not None or not self._ask.is_stream:
            return self._used_tokens
        return self._prompt_tokens + self._relay.tokens

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._arrived_s

    @property
    def _waits_s(self) -> float:
        """For its next token: since it came, or its stream stands still. Engines put late prompts last."""
        return time.monotonic() - max(self._arrived_s, self._attempts.still_s or 0.0)

    def _patience_s(self, least_s: float) -> float:
        """How long an engine may be silent, its queue included: never less than the class itself is ready to wait."""
        return max(least_s, PATIENCE * self._ask.service_class.ttft.target_s)

    async def answer(self) -> web.StreamResponse:
        """The client's response, or EngineFailure, Refusal, ClientGone."""
        with self._phase:
            try:
                return await self._answer()
            except (EngineFailure, Refusal) as error:
                if self._failure is None or not self._stream.is_open:
                    raise
                self._shared.metrics.resume(self._not_resumed)
                raise self._failure from (None if error is self._failure else error)

    async def _answer(self) -> web.StreamResponse:
        while True:
            with await self._turn() as grant:
                try:
                    return await self._serve(grant)
                except EngineFailure as failure:
                    self._before_retry(failure, grant.phase_of(failure.endpoint))

    def _before_retry(self, failure: EngineFailure, phase: str) -> None:
        """Raises the failure when it is final."""
        if failure.is_down:
            self._shared.fleet.exclude(failure.endpoint)
        self._tried.add(failure.endpoint)
        self._failure, came, has_begun = failure, self._relay.came, self._stream.is_open
        may_retry = self._attempts.failed(
            had_request=failure.had_request,
            has_begun=has_begun,
            came_further=has_begun and came > self._came,
            now_s=time.monotonic(),
        )
        if has_begun:
            self._output_tokens = max(0.0, self._output_tokens - (came - self._came))
            self._rest = self._go_on(failure)
        self._came = came
        if not may_retry:
            raise failure
        self._shared.metrics.retry(phase, failure.reason)
        self._log("retry", failure, phase=phase, detail=failure.detail)

    def _go_on(self, failure: EngineFailure) -> resume.Continuation:
        """Where another engine goes on; the failure where none may."""
        rest = resume.DIVERGED if failure.reason == resume.DIVERGED else self._relay.go_on()
        if isinstance(rest, str):
            self._not_resumed = rest
            self._log("not_resumed", failure, why=rest)
            raise failure
        return rest

    def _log(self, event: str, failure: EngineFailure, **facts: object) -> None:
        facts |= {"class": self._ask.service_class.name, "engine": failure.endpoint, "reason": failure.reason}
        facts |= {"age_s": round(self.age_s, 3), "tokens": self._relay.came or None}
        log_line(logging.WARNING, event, request=self._request_id, **facts)

    async def _turn(self) -> Grant:
        """Its engines, when it is its turn. What is expected of the first turn is what the request is told."""
        self._phase.close()
        while True:
            seeker = self._seeker()
            try:
                grant = await self._shared.room.turn(seeker, lambda: self._in_phase("queued", self._prompt_tokens))
            except Shed as shed:
                if isinstance(shed, Overload) or not self._attempts.may_wait(time.monotonic()):
                    raise
                await asyncio.sleep(AGAIN_S)
                continue
            if not self.retries:
                self._expected = seeker.expected
            return grant

    def _seeker(self) -> Seeker:
        policy, ask = self._shared.fleet.policy, self._ask
        return Seeker(
            waiter=self._waiter,
            one_step=ask.one_step is not None,
            output_tokens=self._output_tokens,
            sheds_late=ask.service_class.sheds_late and not self.retries,
            blocks=rules.prompt_blocks(ask) if policy is Policy.PREFIX_AFFINITY else (),
            session=f"{ask.tenant}/{self._session}" if policy is Policy.SESSION and self._session else None,
            avoid=self._tried,
            model=self._model,
        )

    async def _serve(self, grant: Grant) -> web.StreamResponse:
        if grant.route.prefill is None:
            return await self._one_step(grant)
        return await self._two_steps(grant)

    async def _two_steps(self, grant: Grant) -> web.StreamResponse:
        """The decode engine is reserved before the prefill begins: finished KV blocks must not wait for a place."""
        fleet, decode = self._shared.fleet, grant.decode
        started_s = time.monotonic()
        kv_transfer_params = await self._prefill(grant.route)
        self._parts["prefill"] = time.monotonic() - started_s
        grant.prompt_done()
        instead = fleet.decode_instead(decode.endpoint)
        if instead is not decode.endpoint and instead.name != decode.endpoint.name:
            decode.move(instead)
        self._enter("decode")
        return await self._respond(grant, kv_transfer_params, part="first_decode")

    async def _prefill(self, route: Route) -> JSON | None:
        """The KV parameters as the engine gave them; None if it has none, then the decode engine computes all."""
        assert route.prefill is not None
        shared, ask = self._shared, self._ask
        self._parts = {"queue": self.age_s}
        self._enter("prefill", self._prompt_tokens)
        body = rules.prefill_copy(ask, self._waits_s)
        if self._rest is not None:
            body = resume.prefill_body(ask, body, self._rest)
        timeout_s = self._patience_s(shared.settings.prefill_timeout_s)
        reply = await shared.engines.post(route.prefill, ask.path, body, self._request_id, timeout_s)
        if self._rest is None:
            shared.learn_prompt(ask, reply.get("usage") or {})
        params = reply.get("kv_transfer_params")
        return params if isinstance(params, dict) else None

    async def _one_step(self, grant: Grant) -> web.StreamResponse:
        """The engine computes prompt and answer. Without a stream nobody sees where the prompt ends: all is decode."""
        self._parts = {"queue": self.age_s}
        if self._ask.is_stream:
            self._enter("prefill", self._prompt_tokens)
        else:
            self._enter("decode")
            grant.place.close_by_itself()
        return await self._respond(grant, None, part="prefill")

    async def _respond(self, grant: Grant, kv: JSON | None, *, part: str) -> web.StreamResponse:
        body = rules.decode_copy(self._ask, self._waits_s, kv)
        is_prompt_counted = part == "first_decode"
        if self._ask.is_stream:
            usage, response = await self._streamed(grant, body, part)
        else:
            usage, response = await self._whole(grant.decode, body)
        if not is_prompt_counted:
            self._shared.learn_prompt(self._ask, usage)
        self._shared.learn_answer(self._ask, usage)
        self._used_tokens = rules.total_of(usage)
        return response

    async def _whole(self, lease: Lease, body: JSON) -> tuple[JSON, web.StreamResponse]:
        timeout_s = self._shared.settings.answer_timeout_s
        answer = await self._shared.engines.post(lease.endpoint, self._ask.path, body, self._request_id, timeout_s)
        self._served((answer.get("usage") or {}).get("completion_tokens"))
        for field in ENGINE_FIELDS:
            answer.pop(field, None)
        response = web.json_response(answer, headers={REQUEST_ID: self._request_id})
        return answer.get("usage") or {}, response

    async def _streamed(self, grant: Grant, body: JSON, part: str) -> tuple[JSON, web.StreamResponse]:
        relay, is_resumed = self._relay, self._rest is not None
        try:
            await self._follow(grant, relay.body(body, self._rest), part)
        except EngineFailure:
            if not relay.is_whole:
                raise
            await relay.close()
        if is_resumed:
            self._shared.metrics.resume(resume.RESUMED)
        return relay.usage, await self._stream.end()

    async def _follow(self, grant: Grant, body: JSON, part: str) -> None:
        """To its end, or EngineFailure."""
        lease, first = grant.decode, partial(self._first_of, grant, part, time.monotonic())

        def each(tokens: int) -> None:
            lease.progress(tokens)
            self._served(tokens)

        idle_s = self._patience_s(self._shared.settings.idle_timeout_s)
        stream = self._shared.engines.stream(lease.endpoint, self._ask.path, body, self._request_id, idle_s)
        async with stream as wire:
            try:
                await self._relay.copy(wire, first=first, each=each if self._ask.tenant else lease.progress)
            except sse.StreamError as error:
                raise broken(lease.endpoint.name, resume.reason_of(error), str(error)) from error
        if not self._relay.is_done:
            raise broken(lease.endpoint.name, "cut", "the stream ended before [DONE]")

    def _first_of(self, grant: Grant, part: str, started_s: float) -> None:
        """The first token of a stream: for the client the first of all, unless another engine had begun."""
        if self._model is None:
            self._parts[part] = time.monotonic() - started_s
            self._model = grant.decode.endpoint.model
            self._first_token()
        grant.prompt_done()
        grant.decode.progress(grant.decode.work_tokens - self._output_tokens)
        self._enter("decode")

    def _first_token(self) -> None:
        if self.judge:
            self.judge.first_token()
        self._shared.first_token(self._ask, self.age_s, self._parts, self._expected)

    def _served(self, tokens: object) -> None:
        """Its tenant's share; nobody counts where there is but one."""
        if self._ask.tenant and isinstance(tokens, int):
            self._shared.room.services.produced(self._waiter, tokens)

    def _enter(self, phase: str, waiting_tokens: float = 0.0) -> None:
        """The request leaves its phase and is in another."""
        self._phase.close()
        self._phase.enter_context(self._in_phase(phase, waiting_tokens))

    def _in_phase(self, phase: str, waiting_tokens: float) -> AbstractContextManager[None]:
        return self._shared.metrics.phase(self._ask.service_class.name, phase, waiting_tokens)
