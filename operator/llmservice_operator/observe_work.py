"""What pods still have to do, asked of themselves and of the routers at this moment. Reads only.

Both are asked because each knows what the other cannot: a router holds a place on a decode engine while the prompt is
still elsewhere, and an engine has the streams of routers that are gone, and KV blocks that nobody has pulled yet.
Prometheus is not asked: its samples are seconds old, and it may be away. Whoever does not answer makes the work
unknown, which never counts as done.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from llmservice_core import metric_names as names
from llmservice_core.contract import (
    COMPONENT_ROUTER,
    LABEL_COMPONENT,
    PATH_CALLS,
    PATH_FLEET,
    PORT_ENGINE_METRICS,
    PORT_ROUTER_METRICS,
)
from llmservice_core.draining import Work
from llmservice_core.model import Calls
from llmservice_operator.kinds import Manifest, labels_of, name_of

TIMEOUT_S = 2.0
Fleet = Mapping[str, Mapping[str, Any]]
"""What one router says: engine -> its state, and the router's own requests on it."""
Numbers = Mapping[str, float]
SENDS = ("ready", "excluded", "not_ready")
"""States of an engine that a router may send to, now or in a moment."""


async def works(http: aiohttp.ClientSession, engines: Sequence[Manifest], routers: Sequence[Manifest]) -> list[Work]:
    """In the order of `engines`."""
    fleets, numbers = await asyncio.gather(
        asyncio.gather(*(_fleet(http, r) for r in routers if is_running(r))),
        asyncio.gather(*(_numbers(http, e) for e in engines)),
    )
    return [work(name_of(e), fleets, found) for e, found in zip(engines, numbers, strict=True)]


def is_running(pod: Manifest) -> bool:
    """A process is in it that may hold requests, also while the pod is being deleted."""
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return any((c.get("state") or {}).get("running") is not None for c in containers)


def is_router(pod: Manifest) -> bool:
    return labels_of(pod).get(LABEL_COMPONENT) == COMPONENT_ROUTER


def is_started(pod: Manifest) -> bool:
    """Its engine has listened at some time since the container began; before that nobody sent anything to it."""
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return any(c.get("started") for c in containers)


def work(engine: str, fleets: Iterable[Fleet | None], numbers: Numbers | None) -> Work:
    """`fleets`: one per running router; None: it did not answer. So with the engine's `numbers`."""
    told = list(fleets)
    known = [f for f in told if f is not None]
    seen = [f[engine] for f in known if engine in f]
    is_whole = len(known) == len(told)
    sent = sum(int(one["in_flight"]) for one in seen)
    own = None if numbers is None else _sum(numbers, names.RUNNING, names.WAITING)
    unpulled = None if numbers is None else _sum(numbers, names.UNPULLED_BLOCKS)
    return Work(
        requests=max(sent, int(own)) if is_whole and own is not None else None,
        tokens=sum(float(one["work_tokens"]) for one in seen) if is_whole else None,
        unpulled_blocks=None if unpulled is None else int(unpulled),
        is_avoided=is_whole and not any(one["state"] in SENDS for one in seen),
    )


def parse_numbers(text: str) -> dict[str, float]:
    """Name -> sum over its series; only what this module needs."""
    wanted = (names.RUNNING, names.WAITING, names.UNPULLED_BLOCKS)
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(wanted))
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def _sum(numbers: Numbers, *wanted: str) -> float | None:
    """None where an engine leaves one of them out."""
    return sum(numbers[name] for name in wanted) if all(name in numbers for name in wanted) else None


async def _fleet(http: aiohttp.ClientSession, router: Manifest) -> Fleet | None:
    text = await _get(http, router, PORT_ROUTER_METRICS, PATH_FLEET)
    try:
        found = json.loads(text) if text is not None else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


async def _numbers(http: aiohttp.ClientSession, engine: Manifest) -> Numbers | None:
    text = await _get(http, engine, PORT_ENGINE_METRICS, "/metrics")
    try:
        return None if text is None else parse_numbers(text)
    except ValueError:
        return None


async def calls(http: aiohttp.ClientSession, pods: Iterable[Manifest]) -> Calls | None:
    """Of the routers among `pods` that run, taken together; None: there is none, or one did not answer."""
    running = [p for p in pods if is_router(p) and is_running(p)]
    texts = await asyncio.gather(*(_get(http, r, PORT_ROUTER_METRICS, PATH_CALLS) for r in running))
    told = [_calls(text) for text in texts]
    known = [c for c in told if c is not None]
    if not known or len(known) < len(told):
        return None
    return Calls(
        quiet_s=min(c.quiet_s for c in known),
        last_s=min((c.last_s for c in known if c.last_s is not None), default=None),
        waiting=sum(c.waiting for c in known),
    )


def _calls(text: str | None) -> Calls | None:
    try:
        found = json.loads(text or "")
        last_s = found["last_s"]
        return Calls(
            quiet_s=float(found["quiet_s"]),
            last_s=None if last_s is None else float(last_s),
            waiting=int(found["waiting"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


async def _get(http: aiohttp.ClientSession, pod: Manifest, port: int, path: str) -> str | None:
    address = (pod.get("status") or {}).get("podIP")
    if not address:
        return None
    host = f"[{address}]" if ":" in address else address
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with http.get(f"http://{host}:{port}{path}", timeout=timeout) as answer:
            return await answer.text() if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError):
        return None
