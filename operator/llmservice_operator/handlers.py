"""kopf's part: start, stop, and word of every LLMService. Nothing here adds a finalizer or writes to a resource.

No timers, daemons or delete handlers: those would add a finalizer, and a service could not be deleted while no operator
runs. The owner references of the children do the cleaning.
"""

import os
from collections.abc import Iterator

import kopf

from llmservice_core.contract import GROUP, PLURAL, VERSION
from llmservice_operator import http_server
from llmservice_operator.fleet import Fleet
from llmservice_operator.settings import read

GIVE_UP_NEVER_S = (1, 2, 5, 10)


class Forever:
    """Pauses between tries, without end: an API server that is away for an hour is no reason to end."""

    def __iter__(self) -> Iterator[float]:
        yield from GIVE_UP_NEVER_S
        while True:
            yield GIVE_UP_NEVER_S[-1]


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: object) -> None:
    settings.posting.enabled = False
    settings.networking.error_backoffs = Forever()
    settings.watching.reconnect_backoff = 1.0
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    own = read(os.environ)
    settings.scanning.disabled = bool(own.watch_namespaces)
    memo.fleet = Fleet(own)
    await memo.fleet.start()
    memo.server = await http_server.serve(own.port, lambda: memo.fleet.is_alive)
    await memo.fleet.wait_for_definition()


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: object) -> None:
    await memo.server.cleanup()
    await memo.fleet.stop()


@kopf.on.event(GROUP, VERSION, PLURAL)
async def saw(event: kopf.RawEvent, memo: kopf.Memo, **_: object) -> None:
    body = event["object"]
    if event["type"] == "DELETED":
        memo.fleet.forget(f"{body['metadata']['namespace']}/{body['metadata']['name']}")
    else:
        memo.fleet.saw(body)
