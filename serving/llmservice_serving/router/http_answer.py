"""The answer to one HTTP/1.1 request out of the bytes of a connection: its head, then its body. No I/O.

For the connections to engines (`engine_wire.py`). Strict (RFC 9112): what is not an answer as engines send them is
BadAnswerError, because a guess where a body ends would give one client the bytes of another.
"""

import re
from dataclasses import dataclass
from typing import Final

MOST_HEAD = 64 << 10
"""Bytes of status line and headers together, of trailers, and many times those of a chunk's own line."""
MOST_LINE = 1 << 10
CRLF, END_OF_HEAD = b"\r\n", b"\r\n\r\n"
STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?")
HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*?)[ \t]*")
CHUNK_LINE: Final = re.compile(rb"([0-9a-fA-F]{1,12})[ \t]*(?:;[^\r\n]*)?")
DIGITS: Final = re.compile(rb"[0-9]{1,15}")
NO_BODY = (204, 304)


class BadAnswerError(Exception):
    """Not HTTP/1.1 as an engine speaks it, or it ends too early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """`length` None: the body is in chunks, or ends with the connection."""

    status: int
    length: int | None
    is_chunked: bool
    keeps_alive: bool


class Answer:
    """Of one request. Feed it what comes; it gives the body's bytes, and knows when the answer is whole."""

    __slots__ = ("_is_after_data", "_is_in_trailer", "_left", "_rest", "has_surplus", "head", "is_at_chunk", "is_whole")

    def __init__(self) -> None:
        self.head: Head | None = None
        self.is_whole = False
        self.has_surplus = False
        """More came than the answer: the connection is good for nothing more."""
        self.is_at_chunk = False
        """In a body of chunks; the next byte is the first of a chunk's line."""
        self._rest = b""
        self._left = 0
        self._is_after_data = self._is_in_trailer = False

    @property
    def may_be_followed(self) -> bool:
        """Whether another request may use the connection."""
        return self.is_whole and not self.has_surplus and self.head is not None and self.head.keeps_alive

    def feed(self, data: bytes) -> bytes:
        """Bytes of the body in it."""
        if self.head is None:
            data = self._read_head(data)
            if self.head is None:
                return b""
        if self.is_whole:
            self.has_surplus = self.has_surplus or bool(data)
            return b""
        if self.head.is_chunked:
            return self._chunks(data)
        if self.head.length is None:
            return data
        return self._counted(data)

    def end(self) -> None:
        """The connection has ended. BadAnswerError if that was too early."""
        if self.head is not None and not self.head.is_chunked and self.head.length is None:
            self.is_whole = True
        if not self.is_whole:
            raise BadAnswerError("the connection ended before the answer" if self.head is None else "the answer is cut")

    def _read_head(self, data: bytes) -> bytes:
        """What follows the head; answers of status 1xx in front of it are passed over."""
        data = self._rest + data
        while True:
            text, found, rest = data.partition(END_OF_HEAD)
            if len(text) > MOST_HEAD:
                raise BadAnswerError(f"a head of more than {MOST_HEAD} bytes")
            if not found:
                self._rest = data
                return b""
            head = read_head(text)
            if head.status >= 200:
                break
            data = rest
        self.head, self._rest = head, b""
        self.is_at_chunk = head.is_chunked
        self._left = head.length or 0
        self.is_whole = head.length == 0
        return rest

    def _counted(self, data: bytes) -> bytes:
        self.has_surplus = len(data) > self._left
        body = data[: self._left]
        self._left -= len(body)
        self.is_whole = self._left == 0
        return body

    def _chunks(self, data: bytes) -> bytes:
        data, at = self._rest + data, 0
        parts: list[bytes] = []
        while not self._is_in_trailer:
            if self._left:
                part = data[at : at + self._left]
                parts.append(part)
                at, self._left = at + len(part), self._left - len(part)
                self._is_after_data = True
            if self._left or at + 2 * self._is_after_data > len(data):
                break
            if self._is_after_data and data[at : at + 2] != CRLF:
                raise BadAnswerError("a chunk is longer than it says")
            at += 2 * self._is_after_data
            self._is_after_data = False
            end = _end_of_line(data, at)
            if end is None:
                break
            self._left = _size(data, at, end)
            self._is_in_trailer, at = self._left == 0, end + 2
        self._rest = data[at:]
        if self._is_in_trailer:
            self._trailer()
        self.is_at_chunk = not (self._rest or self._left or self._is_after_data or self._is_in_trailer)
        return b"".join(parts)

    def _trailer(self) -> None:
        """Lines after the last chunk, which nobody needs, up to an empty one."""
        while (end := self._rest.find(CRLF)) >= 0:
            self._rest = self._rest[end + 2 :]
            if end == 0:
                self.is_whole, self.has_surplus, self._rest = True, bool(self._rest), b""
                return
        if len(self._rest) > MOST_HEAD:
            raise BadAnswerError("a trailer without an end")


def _end_of_line(data: bytes, at: int) -> int | None:
    """Of a chunk's line that begins at `at`; None: it is not whole yet."""
    end = data.find(CRLF, at, at + MOST_LINE)
    if end >= 0:
        return end
    if len(data) - at >= MOST_LINE:
        raise BadAnswerError("the line of a chunk is too long")
    return None


def _size(data: bytes, at: int, end: int) -> int:
    line = CHUNK_LINE.fullmatch(data, at, end)
    if line is None:
        raise BadAnswerError("a chunk does not say how long it is")
    return int(line[1], 16)


def read_head(text: bytes) -> Head:
    """`text` without the empty line at its end."""
    first, *lines = text.split(CRLF)
    status = STATUS_LINE.fullmatch(first)
    if status is None:
        raise BadAnswerError("no status line of HTTP/1.1")
    headers: dict[bytes, list[bytes]] = {}
    for line in lines:
        header = HEADER.fullmatch(line)
        if header is None:
            raise BadAnswerError("a line of the head is no header")
        headers.setdefault(header[1].lower(), []).append(header[2])
    if headers.get(b"content-encoding", [b"identity"]) != [b"identity"]:
        raise BadAnswerError("a content encoding that was not asked for")
    is_chunked = _is_chunked(headers)
    code = int(status[2])
    length = 0 if code < 200 or code in NO_BODY else _length(headers)
    keeps = _keeps_alive(headers, is_old=status[1] == b"0") and (is_chunked or length is not None)
    return Head(status=code, length=length, is_chunked=is_chunked and length is None, keeps_alive=keeps)


def _is_chunked(headers: dict[bytes, list[bytes]]) -> bool:
    codings = headers.get(b"transfer-encoding")
    if codings is None:
        return False
    if len(codings) != 1 or codings[0].lower() != b"chunked" or b"content-length" in headers:
        raise BadAnswerError("a transfer encoding that leaves the end of the body open")
    return True


def _length(headers: dict[bytes, list[bytes]]) -> int | None:
    given = set(headers.get(b"content-length", ()))
    if not given:
        return None
    if len(given) > 1 or DIGITS.fullmatch(length := given.pop()) is None:
        raise BadAnswerError("a content length that is no number")
    return int(length)


def _keeps_alive(headers: dict[bytes, list[bytes]], *, is_old: bool) -> bool:
    """The default is close in HTTP/1.0 and to keep it in 1.1."""
    tokens = {token.strip().lower() for value in headers.get(b"connection", ()) for token in value.split(b",")}
    return b"close" not in tokens and (not is_old or b"keep-alive" in tokens)
