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

from llmservice_serving.engine_numbers import Live

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SETTLE_S = 3.0
"""Routers see the deletion within a second; what they sent until then must be in the engine before 0 means nothing."""
POLL_S = 0.25
DEFAULT_WITHIN_S = 60.0


def is_idle(live: Live) -> bool:
    return live.waiting + live.prefills + live.decodes + live.unpulled_blocks == 0


def until_idle(
    live: Callable[[], Live],
    within_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """True as soon as nothing is left, though never before routers had time to stop; False after `within_s`."""
    began_s = clock()
    while True:
        age_s = clock() - began_s
        if age_s >= min(SETTLE_S, within_s) and is_idle(live()):
            return True
        if age_s >= within_s:
            return False
        sleep(POLL_S)


def answer(live: Callable[[], Live], environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Always 200: the kubelet would only write an event about anything else, and go on."""
    done = until_idle(live, _within_s(environ.get("QUERY_STRING", "")))
    body = b"nothing is left\n" if done else b"the time is over\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _within_s(query: str) -> float:
    try:
        return float(parse_qs(query)["within"][0])
    except (KeyError, ValueError):
        return DEFAULT_WITHIN_S
