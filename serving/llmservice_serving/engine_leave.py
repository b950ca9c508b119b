"""How an engine leaves when nobody drained it first: eviction, `kubectl drain`, a deleted pod, an old revision.

The pod's preStop hook asks /leave, and the kubelet sends SIGTERM when it is answered. Routers drop the pod as soon as
it is marked for deletion; here we wait until what they sent before is answered and, in a prefill engine, its KV blocks
are pulled. The answer says how it ended, for a person with curl.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from llmservice_serving.engine_numbers import EngineNumbers, Live

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

QUIET_S = 5.0
"""Routers see the deletion within a second; what they sent until then must be in the engine before 0 means nothing. And
the only engine of its pool still gets requests until its successor is there: while some came lately, it stays."""
POLL_S = 0.25
DEFAULT_WITHIN_S = 60.0


def is_idle(live: Live) -> bool:
    return live.waiting + live.prefills + live.decodes + live.unpulled_blocks == 0


def until_idle(
    live: Callable[[], Live],
    steps: Callable[[], float],
    within_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """True when nothing is left and nothing was done for QUIET_S; False after `within_s`.

    `steps` tells of work that came and went between two looks.
    """
    began_s = busy_s = clock()
    before = steps()
    while True:
        now_s, done = clock(), steps()
        if done != before or not is_idle(live()):
            before, busy_s = done, now_s
        elif now_s - busy_s >= QUIET_S:
            return True
        if now_s - began_s >= within_s:
            return is_idle(live())
        sleep(POLL_S)


def answer(numbers: EngineNumbers, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Always 200: the kubelet would only write an event about anything else, and go on."""
    done = until_idle(numbers.live, lambda: _steps(numbers), _within_s(environ.get("QUERY_STRING", "")))
    body = b"nothing is left\n" if done else b"the time is over\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _steps(numbers: EngineNumbers) -> float:
    with numbers.lock:
        return sum(kind.steps for kind in numbers.kinds.values())


def _within_s(query: str) -> float:
    try:
        return float(parse_qs(query)["within"][0])
    except (KeyError, ValueError):
        return DEFAULT_WITHIN_S
