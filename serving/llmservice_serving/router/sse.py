"""Server-sent events of a vLLM stream: cut into events, read what the router must know, hide what is not the client's.

Bytes in, bytes out; no I/O. Most events pass untouched and unparsed.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from llmservice_serving.router.errors import ENGINE_FIELDS

END = b"\n\n"
DONE = b"data: [DONE]"
DATA = b"data: "
ABORTED = "abort"
"""vLLM's `finish_reason` of an answer that the engine gave up, as it does when it is told to stop: not an end."""


class StreamError(Exception):
    """The engine reported an error inside its stream."""


def error_event(body: dict[str, Any]) -> bytes:
    return DATA + json.dumps(body).encode() + END


class Cutter:
    """Whole events out of network chunks that break anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def has_rest(self) -> bool:
        """The next bytes are in the middle of an event."""
        return bool(self._rest)

    def feed(self, chunk: bytes) -> list[bytes]:
        *whole, self._rest = (self._rest + chunk).split(END)
        return whole


class Template:
    """What the events of one stream have in common: all but their text. Knows the next one by comparing.

    Learned from an event that `Reader` passed as it was. One that begins and ends alike, with no quotation mark
    between, has another text and otherwise the same fields and values, so `Reader` would pass it. Compared are
    whole chunks of HTTP, each of which holds one event.
    """

    __slots__ = ("_lead", "_lead_size", "_tail", "_tail_size")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._lead, self._tail = b"\0", b"\0"  # nothing begins so
        self._lead_size = self._tail_size = 1

    def learn(self, event: bytes) -> None:
        if text := TEXT.search(event):
            begin, end = text.span(1)
            self._lead, self._tail = event[:begin], event[end:] + END + b"\r\n"
            self._lead_size, self._tail_size = len(self._lead), len(self._tail)

    def fits(self, raw: bytes) -> bool:
        """Whether it is one chunk of 16 to 4,095 bytes, its length written as servers do, with one such event."""
        size = len(raw)
        begin = 4 if size < 262 else 5
        return (
            raw.endswith(self._tail)
            and raw.startswith(b"%x\r\n%b" % (size - begin - 2, self._lead))
            and raw.find(b'"', begin + self._lead_size, -self._tail_size) < 0
        )


TEXT = re.compile(rb'"(?:text|content)":"([^"\\]*)"')


@dataclass(slots=True, kw_only=True)
class Reader:
    """Passes events on and remembers what they said."""

    wants_usage: bool
    usage: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0
    """Events with content. An event is about one token (vLLM may merge several)."""
    is_done: bool = False

    def read(self, event: bytes) -> bytes | None:
        """The event as the client may see it, None to drop it. StreamError if the engine reports an error."""
        if not event.startswith(DATA):
            return event
        if event == DONE:
            self.is_done = True
            return event
        if b'"usage":{' in event or b"_transfer_params" in event or event.startswith(b'data: {"error"'):
            return self._read_json(event)
        if b'"finish_reason":"abort"' in event:
            raise StreamError("the engine aborted the request")
        self.tokens += 1
        return event

    def _read_json(self, event: bytes) -> bytes | None:
        data: dict[str, Any] = json.loads(event[len(DATA) :])
        if data.get("error"):
            raise StreamError(json.dumps(data["error"]))
        if any(choice.get("finish_reason") == ABORTED for choice in data.get("choices") or ()):
            raise StreamError("the engine aborted the request")
        for name in ENGINE_FIELDS:
            data.pop(name, None)
        self.usage = data.get("usage") or self.usage
        if data.get("choices"):
            self.tokens += 1
        elif not self.wants_usage:
            return None
        if not self.wants_usage:
            data.pop("usage", None)
        return DATA + json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
