"""The OpenAI API as HTTP handlers: read, run, account. Every request ends in exactly one outcome."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web

from llmservice_core.contract import HEADER_CLASS, HEADER_SESSION
from llmservice_core.model import ServiceClass
from llmservice_serving.router import intake, rules
from llmservice_serving.router.client_side import ClientStream, log_line, refusal_response
from llmservice_serving.router.door import Charge, class_of
from llmservice_serving.router.errors import ClientGone, Denied, EngineFailure, Refusal, Shed, error_body
from llmservice_serving.router.flow import Flow
from llmservice_serving.router.keys import Tenant
from llmservice_serving.router.service_config import ServiceConfig
from llmservice_serving.router.state import Shared

GENERATE = ("/v1/completions", "/v1/chat/completions")
PASS_THROUGH = ("/tokenize", "/detokenize")
SIMPLE_TIMEOUT_S = 10.0
CLIENT_GONE = 499
log = logging.getLogger("llmservice.router")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Handlers:
    """Bound to what all requests share."""

    def __init__(self, shared: Shared):
        self._shared = shared

    def routes(self) -> list[web.RouteDef]:
        posts = [*((path, self.generate) for path in GENERATE), *((path, self.pass_through) for path in PASS_THROUGH)]
        served = [web.post(path, handler, expect_handler=intake.no_hurry) for path, handler in posts]
        return [*served, web.get("/v1/models", self.models)]

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """One completion or chat completion, counted from its arrival to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._shared.running.add(task)
        generation = Generation(self._shared, request)
        try:
            return await generation.run()
        finally:
            generation.close()
            self._shared.running.discard(task)

    async def models(self, request: web.Request) -> web.StreamResponse:
        """An engine's own list; while none is ready, the name the service promises."""
        config = self._let_in(request)
        endpoint = next((e for e in self._shared.fleet.snapshot() if e.is_usable), None)
        if endpoint is not None:
            try:
                status, text = await self._shared.engines.get(endpoint, "/v1/models", SIMPLE_TIMEOUT_S)
                return web.Response(status=status, body=text, content_type="application/json")
            except EngineFailure:
                self._shared.fleet.exclude(endpoint.name)
        model = {"id": config.served_name, "object": "model", "created": 0, "owned_by": "llmservice"}
        return web.json_response({"object": "list", "data": [model]})

    async def pass_through(self, request: web.Request) -> web.StreamResponse:
        """Tokenizing: any engine can, and nothing of it is timed."""
        self._let_in(request)
        body = rules.clean(rules.parse(await intake.body(request, self._shared.settings)))
        usable = [e for e in self._shared.fleet.snapshot() if e.is_usable]
        if not usable:
            raise Shed("NoEndpoint", "No engine of this service is ready.")
        endpoint = min(usable, key=lambda e: e.in_flight)
        request_id = str(uuid.uuid4())
        answer = await self._shared.engines.post(endpoint, request.path, body, request_id, SIMPLE_TIMEOUT_S)
        return web.json_response(answer)

    def _let_in(self, request: web.Request) -> ServiceConfig:
        """Any key that is known will do where nothing is generated."""
        config = self._shared.configured()
        self._shared.door.who(request.headers.getall("Authorization", []), config)
        return config


class Generation:
    """Accounting around one flow."""

    def __init__(self, shared: Shared, request: web.Request):
        self._shared, self._request = shared, request
        self._arrived_s = time.monotonic()
        self._request_id = uuid.uuid4().hex
        self._tenant: Tenant | None = None
        self._charge: Charge | None = None
        self._class: ServiceClass | None = None
        self._flow: Flow | None = None
        self._stream = ClientStream(request, self._request_id, shared.settings.stall_timeout_s)

    async def run(self) -> web.StreamResponse:
        try:
            response = await self._answer()
        except EngineFailure as failure:
            return await self._failed(failure.refusal(has_begun=self._stream.is_open), "failed", str(failure))
        except Refusal as refusal:
            outcome = "shed" if isinstance(refusal, Shed) else "refused"
            return await self._failed(refusal, outcome, refusal.message)
        except (ClientGone, asyncio.CancelledError) as gone:
            return await self._left(gone)
        except Exception as error:
            log.exception("request %s: a fault of the router", self._request_id)
            return await self._failed(internal_error(), "failed", f"{type(error).__name__}: {error}")
        self._settle()
        self._count(200, "ok")
        log_line(logging.DEBUG, "ok", request=self._request_id, age_s=self._age_s())
        return response

    def close(self) -> None:
        self._stream.close()

    async def _answer(self) -> web.StreamResponse:
        try:
            self._flow = await self._come_in()
        except BaseException as error:
            self._count_arrival(is_demand=not isinstance(error, Denied))
            raise
        self._count_arrival(is_demand=True)
        return await self._flow.answer()

    async def _come_in(self) -> Flow:
        """Who it is, as which class, what it asks for, and whether its tenant may have that now."""
        shared, request = self._shared, self._request
        config = shared.configured()
        self._tenant = shared.door.who(request.headers.getall("Authorization", []), config)
        self._class = class_of(self._tenant, request.headers.get(HEADER_CLASS), config)
        raw = await intake.body(request, shared.settings)
        salt = self._tenant.cache_salt(shared.settings.service) if self._tenant else None
        tenant = self._tenant.name if self._tenant else ""
        ask = rules.read(request.path, raw, self._class, salt, tenant)
        self._charge = shared.door.charge(self._tenant, shared.predicted_tokens(ask))
        session = request.headers.get(HEADER_SESSION)
        return Flow(shared, ask, self._stream, self._request_id, self._arrived_s, session)

    async def _failed(self, refusal: Refusal, outcome: str, detail: str) -> web.StreamResponse:
        """The client gets a status with a sentence, or an error event if its stream has begun."""
        if self._flow and self._flow.judge:
            is_miss = outcome in ("failed", "shed")
            self._flow.judge.failed() if is_miss else self._flow.judge.dismiss()
        if self._charge:
            self._charge.refund()
        metrics = self._shared.metrics
        if isinstance(refusal, Denied):
            metrics.deny(refusal.reason, refusal.tenant)
        if isinstance(refusal, Shed):
            metrics.shed.labels(metrics.service, self._class_name, refusal.reason).inc()
        if not self._stream.is_open:
            self._end(refusal.status, outcome, detail)
            return refusal_response(refusal, self._request_id)
        self._end(200, outcome, detail)
        with suppress(ClientGone):
            await self._stream.fail(refusal)
        return self._stream.response

    async def _left(self, gone: BaseException) -> web.StreamResponse:
        """The client went away, or this router must stop and its streams are cut with a word."""
        if self._shared.is_cutting and isinstance(gone, asyncio.CancelledError):
            return await self._failed(
                Refusal(503, "The router is stopping.", kind="service_unavailable"), "failed", "stop"
            )
        if self._flow and self._flow.judge:
            self._flow.judge.dismiss()
        self._settle()
        self._count(CLIENT_GONE, "client_gone")
        log_line(logging.DEBUG, "client_gone", request=self._request_id, age_s=self._age_s())
        if isinstance(gone, asyncio.CancelledError):
            raise gone
        return self._stream.response

    @property
    def _class_name(self) -> str:
        """Empty for a request whose class never became known: a label that a client cannot choose."""
        return self._class.name if self._class else ""

    def _settle(self) -> None:
        """What was used, of a client that left what it got; nothing of what failed."""
        if self._charge is None or self._tenant is None or self._flow is None:
            return
        used = self._flow.used_tokens
        self._charge.settle(used)
        metrics = self._shared.metrics
        metrics.tenant_tokens.labels(metrics.service, self._tenant.name).inc(
            self._charge.tokens if used is None else used
        )

    def _count_arrival(self, *, is_demand: bool) -> None:
        """Shed and refused ones are demand, too; who is turned away at the door is none that engines should serve."""
        metrics = self._shared.metrics
        metrics.arrivals.labels(metrics.service, self._class_name if is_demand else "").inc()

    def _count(self, code: int, outcome: str) -> None:
        metrics = self._shared.metrics
        metrics.requests.labels(metrics.service, self._class_name, str(code), outcome).inc()

    def _end(self, code: int, outcome: str, detail: str) -> None:
        self._count(code, outcome)
        level = logging.INFO if outcome == "refused" else logging.WARNING
        if outcome == "refused" and self._shared.door.has_keys and self._tenant is None:
            level = logging.DEBUG  # anybody can make such lines; a metric counts them
        facts = {"class": self._class_name, "code": code, "age_s": self._age_s(), "detail": detail}
        facts["tenant"] = self._tenant.name if self._tenant else None
        retries = self._flow.retries if self._flow else 0
        log_line(level, outcome, request=self._request_id, path=self._request.path, retries=retries, **facts)

    def _age_s(self) -> float:
        return round(time.monotonic() - self._arrived_s, 3)


def openai_errors(shared: Shared) -> Any:
    """What no handler answers, in OpenAI's shape too."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            if isinstance(refusal, Denied):
                shared.metrics.deny(refusal.reason, refusal.tenant)
            return refusal_response(refusal)
        except EngineFailure as failure:
            return refusal_response(failure.refusal())
        except web.HTTPException as error:
            message = _unknown(request) if error.status in (404, 405) else error.reason
            body = json.dumps(error_body(error.status, message, "invalid_request_error"))
            return web.Response(status=error.status, text=body, content_type="application/json")
        except Exception:
            log.exception("%s %s: a fault of the router", request.method, request.path)
            return refusal_response(internal_error())

    return middleware


def internal_error() -> Refusal:
    return Refusal(500, "The router failed at this request; its log has the reason.", kind="internal_error")


def _unknown(request: web.Request) -> str:
    served = ", ".join(("GET /v1/models", *(f"POST {path}" for path in (*GENERATE, *PASS_THROUGH))))
    return f"This service does not answer {request.method} {request.path}; it answers: {served}."
