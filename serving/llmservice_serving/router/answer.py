"""One answer to one client out of the streams of one engine after another. Bytes in, bytes out; no I/O.

Asks engines for token ids, remembers them, and hides them from a client that did not ask. When an engine has died the
next stream goes on where this one stopped: no second id, role or usage, nothing twice.
"""

import json
import re
from array import array

from llmservice_serving.router.errors import ENGINE_FIELDS, JSON
from llmservice_serving.router.resume import Continuation, DivergedError, Sent, sent_for
from llmservice_serving.router.rules import Ask
from llmservice_serving.router.sse import ABORTED, DATA, DONE, END, StreamError

IDS, PROMPT_IDS = "token_ids", "prompt_token_ids"
PARSED_FIELDS = ("reasoning", "reasoning_content", "tool_calls")


PLAIN = re.compile(
    rb'data: \{[^\[{]*"choices":\[\{"index":0,(?:"text":|"delta":\{"content":)"([^"\\]*(?:\\.[^"\\]*)*)"\}?'
    rb',"logprobs":null,"finish_reason":null(?:,"stop_reason":null)?(?:,"prompt_token_ids":null)?'
    rb',"token_ids":\[(\d+)\]\}\]\}'
)
"""Nearly every event: one token, its text, and nothing else. Any other is read as JSON, which takes five times as long.
No text can look like the rest of it, for a quotation mark in a text has a backslash before it."""


class Template:
    """What the plain events of one stream have in common: all but text and token. Finds these two by comparing."""

    __slots__ = ("_between", "_lead", "_rest", "_tail")

    def __init__(self, lead: bytes, between: bytes, tail: bytes):
        """Of an event: up to its text, up to its token, and what follows."""
        self._lead, self._between, self._tail = lead, between, tail + END + b"\r\n"
        self._rest = between[:-1] + b"null" + self._tail[1:]

    def parts(self, raw: bytes) -> tuple[bytes, bytes] | None:
        """Text and token of a chunk of 16 to 4,095 bytes that holds one such event; none with escapes in its text."""
        size = len(raw)
        begin = 4 if size < 262 else 5
        if not (raw.endswith(self._tail) and raw.startswith(b"%x\r\n%b" % (size - begin - 2, self._lead))):
            return None
        text, _, token = raw[begin + len(self._lead) : -len(self._tail)].partition(self._between)
        return (text, token) if token.isdigit() and b'"' not in text and b"\\" not in text else None

    def chunk(self, text: bytes) -> bytes:
        """For the client: without the token."""
        size = len(self._lead) + len(text) + len(self._rest) - 2
        return b"%x\r\n%b%b%b" % (size, self._lead, text, self._rest)


class Answer:
    """Reads like `sse.Reader`, over several streams."""

    def __init__(self, ask: Ask):
        self.sent: Sent = sent_for(ask)
        self.usage: JSON = {}
        self.tokens = 0
        self.is_done = False
        self._wants_usage, self._shows_ids = ask.wants_usage, ask.body.get("return_token_ids") is True
        self._first: JSON = {}
        self._is_counted = False
        """The engine has said what it used in all."""
        self._continues: Continuation | None = None
        self._has_read_prompt = False
        """The engine that goes on has said that it began where it was told to."""
        self._template: Template | None = None
        self._at = (0, 0)
        """Tokens and characters of the answer when the present stream had brought what it has brought."""

    def go_on(self, c: Continuation) -> None:
        """What is read now comes from another engine and begins there."""
        self._continues, self._at, self._has_read_prompt = c, (c.tokens, c.chars), False
        self._template = None

    def read(self, event: bytes) -> bytes | None:
        """The event as the client may see it, None to drop it. StreamError if the engine reports an error."""
        if not event.startswith(DATA):
            return event
        if event == DONE:
            self.is_done = True
            return event
        if self._continues is None and not self._shows_ids and (plain := PLAIN.fullmatch(event)):
            return self._read_plain(event, plain)
        data: JSON = json.loads(event[len(DATA) :])
        if data.get("error"):
            raise StreamError(json.dumps(data["error"]))
        for name in ENGINE_FIELDS:
            data.pop(name, None)
        choices = data.get("choices") or []
        is_shown = all(self._read_choice(data, choice) for choice in choices)
        self._read_usage(data)
        if not is_shown or not (choices or "usage" in data):
            return None
        return DATA + dumps(self._as_first(data))

    def take(self, raw: bytes) -> bytes | None:
        """One whole chunk of HTTP with one event like the last, as the client may see it; None: it must be `read`."""
        template = self._template
        if template is None or (found := template.parts(raw)) is None:
            return None
        text, token = found
        self._took(token, len(text.decode()))
        return template.chunk(text)

    def _read_plain(self, event: bytes, plain: re.Match[bytes]) -> bytes:
        text = plain[1]
        self._took(plain[2], len(json.loads(b'"' + text + b'"') if b"\\" in text else text.decode()))
        begin, end = plain.span(2)
        self._template = Template(event[: plain.start(1)], event[plain.end(1) : begin], event[end:])
        return event[: begin - 1] + b"null" + event[end + 1 :]

    def _took(self, token: bytes, chars: int) -> None:
        sent = self.sent
        sent.tokens.append(int(token))
        sent.chars += chars
        self.tokens += 1
        self._at = (len(sent.tokens), sent.chars)
        if chars:
            sent.mark(self._at[0], sent.chars + sent.held)

    def closing(self) -> list[bytes]:
        """What is left to say when the engine died after the last token and before the end of the stream."""
        if self._is_counted:
            return [DONE]
        prompt = len(self.sent.prompt or ())
        tokens = len(self.sent.tokens)
        self.usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        last = {**self._first, "choices": [], "usage": self.usage}
        return [DATA + dumps(last), DONE] if self._wants_usage else [DONE]

    def _read_choice(self, data: JSON, choice: JSON) -> bool:
        """Whether there is something in it for the client."""
        self._read_prompt(data, choice)
        finish = choice.get("finish_reason")
        if finish == ABORTED:
            raise StreamError("the engine aborted the request")
        delta = choice.get("delta")
        is_kept_back = delta == {} and finish is None  # by a parser: engines tell of it those who asked for token ids
        if is_kept_back or any((delta or {}).get(name) for name in PARSED_FIELDS):
            self._parsed()
        holder, name = (choice, "text") if delta is None else (delta, "content")
        ids: list[int] = choice.get(IDS) or []
        text: str = holder.get(name) or ""
        if (ids or text) and self._continues is not None and not self._has_read_prompt:
            raise DivergedError("the second engine did not take the tokens so far as its prompt")
        new_ids, new_text = self._new_tokens(ids), self._new_text(text)
        if IDS not in choice and text:
            self.tokens += 1  # an engine that tells no ids: counted as without
        if len(ids) == 1 and text:
            self.sent.mark(self._at[0], self._at[1] + self.sent.held)
        if IDS in choice:
            choice[IDS] = new_ids if self._shows_ids else None
        if finish is not None:
            self._end(finish)
        is_new = True
        if self._continues is not None:
            holder[name] = new_text
            is_new = bool(new_text or new_ids or finish is not None)
        return is_new and (not is_kept_back or self._shows_ids)

    def _parsed(self) -> None:
        """Text that went through a parser of reasoning or tool calls is not the text of the tokens."""
        if self._continues is not None:
            raise DivergedError("the second engine parses what the first did not")
        self.sent.is_parsed = True

    def _read_prompt(self, data: JSON, choice: JSON) -> None:
        """The prompt as the engine read it: what we sent, when we sent tokens."""
        for holder in (data, choice):
            if not (ids := holder.get(PROMPT_IDS)):
                continue
            if self._continues is None:
                self.sent.prompt = array("i", ids)
            else:
                self._has_read_prompt = tuple(ids) == self._continues.prompt
            if self._continues is not None or not self._shows_ids:
                holder[PROMPT_IDS] = None

    def _new_tokens(self, ids: list[int]) -> list[int]:
        """Those that the client has not got; the others must be what it got."""
        at, sent = self._at[0], self.sent.tokens
        known = sent[at : at + len(ids)].tolist()
        if known != ids[: len(known)]:
            raise DivergedError("the second engine computed other tokens")
        new = ids[len(known) :]
        sent.extend(new)
        self.tokens += len(new)
        self._at = (at + len(ids), self._at[1])
        return new

    def _new_text(self, text: str) -> str:
        begin = self._at[1]
        self._at = (self._at[0], begin + len(text))
        shown = max(0, self.sent.chars - begin)
        self.sent.chars = max(self.sent.chars, self._at[1])
        return text[shown:]

    def _end(self, finish: str) -> None:
        if self._at[0] < len(self.sent.tokens) or self._at[1] < self.sent.chars:
            raise DivergedError("the second engine ended the answer before what the client has")
        self.sent.finish = finish

    def _read_usage(self, data: JSON) -> None:
        """As if one engine had counted all."""
        usage: JSON = data.get("usage") or {}
        if usage and self._continues:
            out = self._continues.tokens
            usage = {**usage, "prompt_tokens": usage["prompt_tokens"] - out}
            usage["completion_tokens"] = usage.get("completion_tokens", 0) + out
            data["usage"] = usage
        self.usage = usage or self.usage
        self._is_counted = bool(usage) and not data.get("choices")
        if not self._wants_usage:
            data.pop("usage", None)

    def _as_first(self, data: JSON) -> JSON:
        """Id and time of the first engine's events in those of all."""
        if not self._first:
            self._first = {name: data[name] for name in ("id", "object", "created", "model") if name in data}
        return data | self._first if self._continues else data


def dumps(data: JSON) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
