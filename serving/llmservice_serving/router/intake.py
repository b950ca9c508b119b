"""The body of a request, within its limits of size and time; before that, whether it may be sent at all."""

import asyncio

from aiohttp import web

from llmservice_serving.router.errors import Denied, Refusal
from llmservice_serving.router.settings import Settings

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def body(request: web.Request, settings: Settings) -> bytes:
    """All of it; Denied with 413 as soon as it is known to be too large, with 408 when it does not come.

    Refusal with 400 for what cannot be unpacked.
    """
    refuse_too_large(request, settings.max_body_bytes)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            await _ask_for_it(request)
            return await request.read()
    except web.RequestPayloadError:
        raise Refusal(400, "The body is not encoded as its headers say (Content-Encoding, chunks).") from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(settings.max_body_bytes) from None
    except TimeoutError:
        message = f"The body did not come within {settings.body_timeout_s:g} s."
        raise Denied(408, message, reason="slow_client", code="request_timeout") from None


def refuse_too_large(request: web.Request, most: int) -> None:
    if (request.content_length or 0) > most:
        raise _too_large(most)


async def no_hurry(_: web.Request) -> None:
    """Instead of aiohttp's answer to `Expect: 100-continue`: a body is asked for only after its sender was let in."""


async def _ask_for_it(request: web.Request) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(CONTINUE)


def _too_large(most: int) -> Denied:
    return Denied(413, f"The body is larger than {most} bytes.", reason="body_too_large", code="body_too_large")
