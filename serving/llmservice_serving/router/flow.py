"""One generation request from its route to its last byte: prefill and decode in two steps, or one step; retries.

Failures are retried elsewhere only while the client has got nothing. Accounting of outcomes is in `handlers`.
"""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack

from aiohttp import web

from llmservice_core.line import Waiter
from llmservice_core.picking import Policy
from llmservice_core.prompt_pace import Expected
from llmservice_core.routing import Route
from llmservice_serving.router import rules, sse
from llmservice_serving.router.client_side import REQUEST_ID, ClientStream, TtftJudge, log_line
from llmservice_serving.router.errors import ENGINE_FIELDS, JSON, EngineFailure
from llmservice_serving.router.fleet import Lease
from llmservice_serving.router.grants import Grant
from llmservice_serving.router.state import Shared
from llmservice_serving.router.waiting_room import Seeker

MAX_TAKEN = 2
"""So many engines may fail while they have a request: one that kills engines must not visit them all."""

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
        self._taken = 0
        self._phase = ExitStack()
        self._parts: dict[str, float] = {}
        self._stream_has_token = False
        self.judge: TtftJudge | None = None
        if ask.is_stream:
            c = ask.service_class
            self.judge = TtftJudge(c.ttft.target_s, arrived_s, lambda ok: shared.metrics.judge_ttft(c, ok))
        self.retries = 0
        self._used_tokens: float | None = None
        self._streamed_tokens = 0
        self._waiter = Waiter(
            service_class=ask.service_class.name,
            tenant=ask.tenant,
            arrival_s=arrived_s,
            ttft_s=ask.service_class.ttft.target_s,
            prompt_tokens=int(self._prompt_tokens),
        )
        self._expected: Expected | None = None

    @property
    def used_tokens(self) -> float | None:
        """Of prompt and answer, until now: as the engine counted, else as far as a stream came; None: unknown."""
        if self._used_tokens is not None or not self._ask.is_stream:
            return self._used_tokens
        return self._prompt_tokens + self._streamed_tokens

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._arrived_s

    def _patience_s(self, least_s: float) -> float:
        """How long an engine may be silent, its queue included: never less than the class itself is ready to wait."""
        return max(least_s, PATIENCE * self._ask.service_class.ttft.target_s)

    async def answer(self) -> web.StreamResponse:
        """The client's response, or EngineFailure, Refusal, ClientGone."""
        with self._phase:
            while True:
                with await self._turn() as grant:
                    try:
                        return await self._serve(grant)
                    except EngineFailure as failure:
                        self._before_retry(failure, "prefill" if self._at_prefill(failure, grant.route) else "decode")

    def _at_prefill(self, failure: EngineFailure, route: Route) -> bool:
        return route.prefill is not None and failure.endpoint == route.prefill.name

    def _before_retry(self, failure: EngineFailure, phase: str) -> None:
        """Raises the failure when it is final."""
        if failure.is_down:
            self._shared.fleet.exclude(failure.endpoint)
        self._tried.add(failure.endpoint)
        self._taken += failure.had_request
        self.retries += 1
        spent = self.retries >= self._shared.settings.max_attempts or self._taken >= MAX_TAKEN
        if self._stream.is_open or spent:
            raise failure
        metrics = self._shared.metrics
        metrics.retries.labels(metrics.service, phase, failure.reason).inc()
        facts = {"class": self._ask.service_class.name, "engine": failure.endpoint, "reason": failure.reason}
        age_s = round(self.age_s, 3)
        log_line(
            logging.WARNING, "retry", request=self._request_id, phase=phase, age_s=age_s, detail=failure.detail, **facts
        )

    async def _turn(self) -> Grant:
        """Its engines, when it is its turn. What is expected of the first turn is what the request is told."""
        self._phase.close()
        name, shared = self._ask.service_class.name, self._shared
        seeker = self._seeker()
        grant = await shared.room.turn(seeker, lambda: shared.metrics.phase(name, "queued", self._prompt_tokens))
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
        body = rules.prefill_copy(ask, self.age_s)
        timeout_s = self._patience_s(shared.settings.prefill_timeout_s)
        reply = await shared.engines.post(route.prefill, ask.path, body, self._request_id, timeout_s)
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
        body = rules.decode_copy(self._ask, self.age_s, kv)
        is_prompt_counted = part == "first_decode"
        if self._ask.is_stream:
            usage, response = await self._relay(grant, body, part)
        else:
            usage, response = await self._whole(grant.decode, body)
        if not is_prompt_counted:
            self._shared.learn_prompt(self._ask, usage)
        self._shared.learn_answer(self._ask, usage)
        self._used_tokens = total_of(usage)
        return response

    async def _whole(self, lease: Lease, body: JSON) -> tuple[JSON, web.StreamResponse]:
        shared = self._shared
        timeout_s = shared.settings.answer_timeout_s
        answer = await shared.engines.post(lease.endpoint, self._ask.path, body, self._request_id, timeout_s)
        self._served((answer.get("usage") or {}).get("completion_tokens"))
        for field in ENGINE_FIELDS:
            answer.pop(field, None)
        response = web.json_response(answer, headers={REQUEST_ID: self._request_id})
        return answer.get("usage") or {}, response

    async def _relay(self, grant: Grant, body: JSON, part: str) -> tuple[JSON, web.StreamResponse]:
        started_s, lease = time.monotonic(), grant.decode
        reader = sse.Reader(wants_usage=self._ask.wants_usage)
        idle_s = self._patience_s(self._shared.settings.idle_timeout_s)
        stream = self._shared.engines.stream(lease.endpoint, self._ask.path, body, self._request_id, idle_s)
        async with stream as chunks:
            try:
                async for tokens in self._copy(chunks, reader):
                    if not self._stream_has_token:
                        self._parts[part] = time.monotonic() - started_s
                        self._first_token(grant)
                    lease.progress(tokens)
                    self._served(tokens)
            except sse.StreamError as error:
                raise self._broken(lease, "stream_error", str(error)) from error
        if not reader.is_done:
            raise self._broken(lease, "cut", "the stream ended before [DONE]")
        return reader.usage, await self._stream.end()

    def _broken(self, lease: Lease, reason: str, detail: str) -> EngineFailure:
        return EngineFailure(lease.endpoint.name, reason, detail, had_request=True, is_down=False)

    async def _copy(self, chunks: AsyncIterator[bytes], reader: sse.Reader) -> AsyncIterator[int]:
        """Engine to client; yields how many tokens each write brought, once they are in the client's socket."""
        cutter, gaps = sse.Cutter(), self._shared.metrics.gaps(self._ask.service_class.name)
        seen, last_s = 0, 0.0
        async for chunk in chunks:
            shown = [e for e in map(reader.read, cutter.feed(chunk)) if e is not None]
            if shown:
                await self._stream.write(sse.END.join(shown) + sse.END)
            if reader.tokens == seen:
                continue
            now_s = time.monotonic()
            if seen:
                gaps.observe(now_s - last_s)
            self._streamed_tokens += reader.tokens - seen
            yield reader.tokens - seen
            seen, last_s = reader.tokens, now_s

    def _first_token(self, grant: Grant) -> None:
        self._stream_has_token = True
        if self.judge:
            self.judge.first_token()
        name, ttft_s = self._ask.service_class.name, self.age_s
        self._shared.metrics.observe_ttft(name, ttft_s, self._parts)
        if self._expected is not None:
            self._shared.metrics.observe_prediction(name, ttft_s - self._expected.ttft_s)
        if "first_decode" in self._parts:
            self._shared.room.lag.saw(self._parts["first_decode"], time.monotonic())
        grant.prompt_done()
        grant.decode.progress(grant.decode.work_tokens - self._output_tokens)
        self._enter("decode")

    def _served(self, tokens: object) -> None:
        """Its tenant's share; nobody counts where there is but one."""
        if self._ask.tenant and isinstance(tokens, int):
            self._shared.room.services.produced(self._waiter, tokens)

    def _enter(self, phase: str, waiting_tokens: float = 0.0) -> None:
        """The request leaves its phase and is in another."""
        self._phase.close()
        metrics = self._shared.metrics
        self._phase.enter_context(metrics.phase(self._ask.service_class.name, phase, waiting_tokens))


def total_of(usage: JSON) -> float | None:
    """Prompt and answers; None where the engine did not count them."""
    prompt, answers = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return float(prompt + answers) if isinstance(prompt, int) and isinstance(answers, int) else None
