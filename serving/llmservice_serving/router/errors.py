"""The two ways a request fails: a person must change something (Refusal), or an engine failed (EngineFailure).

Every answer that is not the engine's own has OpenAI's error shape. No I/O here.
"""

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from llmservice_core.prompt_pace import Expected

JSON = dict[str, Any]

ENGINE_FIELDS = ("kv_transfer_params", "ec_transfer_params")
"""Fields of an answer that are between engines and never the client's."""


class Refusal(Exception):
    """Ends the request with an HTTP status and a sentence for the client."""

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None):
        super().__init__(message)
        self.status, self.message, self.kind, self.param = status, message, kind, param

    def body(self) -> JSON:
        return error_body(self.status, self.message, self.kind, self.param)

    def headers(self) -> dict[str, str]:
        return {"Retry-After": "1"} if self.status == 503 else {}


class Denied(Refusal):
    """Turned away at the door, before anything is asked of an engine. `code` is what OpenAI's clients know."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        reason: str,
        code: str,
        kind: str = "invalid_request_error",
        tenant: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
    ):
        super().__init__(status, message, kind=kind)
        self.reason, self.code, self.tenant, self._headers = reason, code, tenant, dict(headers)

    def body(self) -> JSON:
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": self.code}}

    def headers(self) -> dict[str, str]:
        return {**super().headers(), **self._headers}


class Shed(Refusal):
    """Refused for want of an engine: demand that was not served."""

    def __init__(self, reason: str, message: str, status: int = 503):
        super().__init__(status, message, kind="service_unavailable")
        self.reason = reason


class Overload(Shed):
    """Too much is asked for now. `wait_s` None: unknown, or waiting is no use. Its code is its reason."""

    def __init__(self, reason: str, message: str, status: int, wait_s: float | None, *, is_final: bool = False):
        super().__init__(reason, message, status)
        self._wait_s, self._is_final = wait_s, is_final

    def body(self) -> JSON:
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": self.reason}}

    def headers(self) -> dict[str, str]:
        if self._is_final:
            return {"x-should-retry": "false"}
        return {"Retry-After": str(max(1, math.ceil(self._wait_s or 0.0)))}


def late(expected: Expected | None, target_s: float) -> Overload:
    """It would miss its target; a request of its kind would meet it once so much of the queue is gone."""
    if expected is None:
        message = f"This request has waited for {target_s:g} s, the time to its first token that its class has."
        return Overload("late", message, 429, None)
    message = f"The first token would come after about {expected.ttft_s:.2g} s; this class promises {target_s:g} s."
    if expected.prefill_s > target_s:
        return Overload("late", f"{message} Its prompt alone takes longer.", 429, None, is_final=True)
    return Overload("late", message, 429, expected.late_by_s(target_s))


def queue_full(most_tokens: int, wait_s: float | None) -> Overload:
    message = f"More than {most_tokens} prompt tokens of this class wait already."
    return Overload("queue_full", message, 503, wait_s)


def starting(left_s: float, target_s: float | None) -> Overload:
    """No engine serves yet, and those that are on their way take so long; `target_s` of a class that does not wait."""
    message = f"No engine serves now; the first one is expected in about {left_s:.0f} s."
    if target_s is not None:
        return Overload("late", f"{message} This class promises its first token in {target_s:g} s.", 429, left_s)
    return Overload("starting", message, 503, left_s)


class Passed(Refusal):
    """An engine refused the request; its answer goes to the client as it is."""

    def __init__(self, status: int, answer: JSON):
        super().__init__(status, str(answer["error"].get("message", "")))
        self.answer = answer

    def body(self) -> JSON:
        return self.answer


class EngineFailure(Exception):
    """An engine did not do its part. `had_request` tells whether it may have begun with it."""

    def __init__(self, endpoint: str, reason: str, detail: str, *, had_request: bool, is_down: bool):
        super().__init__(f"{endpoint}: {reason}: {detail}")
        self.endpoint, self.reason, self.detail = endpoint, reason, detail
        self.had_request, self.is_down = had_request, is_down

    def refusal(self, *, has_begun: bool = False) -> Refusal:
        """What the client is told; `has_begun`: it already has a part of the answer."""
        status = 504 if self.reason == "timeout" else 502
        end = "in the middle of the answer" if has_begun else "and no other could answer"
        return Refusal(status, f"An engine failed ({self.reason}) {end}.", kind="engine_error")


def broken(endpoint: str, reason: str, detail: str) -> EngineFailure:
    """Of an answer that began and did not end; the engine may still be up."""
    return EngineFailure(endpoint, reason, detail, had_request=True, is_down=False)


class ClientGone(Exception):
    """The client closed its connection."""


def error_body(status: int, message: str, kind: str, param: str | None = None) -> JSON:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def as_openai(status: int, text: bytes) -> JSON:
    """An engine's 4xx in OpenAI's shape, whatever shape it came in."""
    try:
        answer = json.loads(text)
    except ValueError:
        return error_body(status, text.decode(errors="replace")[:1000], "invalid_request_error")
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        return answer
    detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
    message = detail if isinstance(detail, str) else json.dumps(detail)
    return error_body(status, message, "invalid_request_error")
