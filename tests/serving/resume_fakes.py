"""An engine whose next token follows from all tokens before it, streamed as vLLM does: ids, pieces of characters, text
held back for stop strings. For the rules of going on; that vLLM does the same is shown with real engines.
"""

import asyncio
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.serving.router_fakes import JSON, Engine, drop, event

PIECES = (b"a", b"b ", b"the", b" of", "ü".encode()[:1], "ü".encode()[1:], "€".encode(), b".", b"xy", b"q", b" ")
FIRST_HALF, SECOND_HALF = 4, 5
CHAT = "/v1/chat/completions"


def next_token(tokens: list[int]) -> int:
    """Greedy: a function of all tokens so far. Halves of a character come in order."""
    if tokens[-1] == FIRST_HALF:
        return SECOND_HALF
    drawn = zlib.crc32(bytes(t % 256 for t in tokens)) % (len(PIECES) - 1)
    return drawn + (drawn >= SECOND_HALF)


def prompt_of(body: JSON) -> list[int]:
    """Token ids as they came; of words, their bytes."""
    if ids := (body.get("kv_transfer_params") or {}).get("prompt_token_ids"):
        return list(ids)
    prompt = body.get("prompt", body.get("messages"))
    return list(prompt) if isinstance(prompt, list) and isinstance(prompt[0], int) else list(str(prompt).encode())


def text_of(tokens: list[int]) -> str:
    """Without the beginning of a character that is not whole."""
    raw = b"".join(PIECES[t] for t in tokens)
    return (raw[:-1] if tokens and tokens[-1] == FIRST_HALF else raw).decode(errors="replace")


@dataclass
class Detokenizer:
    """Text by token, and when a stop string ends it."""

    stops: list[str]
    keeps_stop: bool
    tokens: list[int]
    shown: int = 0

    def add(self, token: int) -> tuple[str, bool]:
        self.tokens.append(token)
        text, hold = text_of(self.tokens), max((len(s) for s in self.stops), default=1) - 1
        found = min((text.index(s), s) for s in self.stops if s in text) if any(s in text for s in self.stops) else None
        if found is not None:
            return text[self.shown : found[0] + (len(found[1]) if self.keeps_stop else 0)], True
        end = len(text) - (0 if self.keeps_stop else hold)
        new, self.shown = text[self.shown : max(self.shown, end)], max(self.shown, end)
        return new, False

    def rest(self) -> str:
        return text_of(self.tokens)[self.shown :]


def steps(body: JSON) -> Iterator[tuple[int, str, str | None]]:
    """Token, text, finish reason."""
    stop = body.get("stop") or []
    made = Detokenizer([stop] if isinstance(stop, str) else stop, bool(body.get("include_stop_str_in_output")), [])
    tokens = prompt_of(body)
    for i in range(1, body["max_tokens"] + 1):
        tokens.append(next_token(tokens))
        text, is_stopped = made.add(tokens[-1])
        if is_stopped:
            yield tokens[-1], text, "stop"
            return
        is_last = i == body["max_tokens"]
        yield tokens[-1], text + (made.rest() if is_last else ""), "length" if is_last else None


def events(body: JSON, path: str, *, merge: int = 1, name: str = "x") -> Iterator[bytes]:
    """A stream as vLLM sends it; `merge` tokens in a chunk."""
    is_chat, prompt, count = path == CHAT, prompt_of(body), 0
    top: JSON = {"id": f"id-{name}", "object": "chunk", "created": len(name), "model": "chat"}
    shows = body.get("return_token_ids") is True
    if is_chat:
        role: JSON = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        yield event({**top, "choices": [role], **({"prompt_token_ids": prompt} if shows else {})})
    waiting: list[tuple[int, str, str | None]] = []
    for step in steps(body):
        waiting.append(step)
        if len(waiting) < merge and step[2] is None:
            continue
        text = "".join(t for _, t, _ in waiting)
        choice: JSON = {"index": 0, **({"delta": {"content": text}} if is_chat else {"text": text})}
        choice |= {"logprobs": None, "finish_reason": step[2], "token_ids": None}
        if shows:
            choice["token_ids"] = [t for t, _, _ in waiting]
            if not is_chat and not count:
                choice["prompt_token_ids"] = prompt
        count += len(waiting)
        waiting = []
        yield event({**top, "choices": [choice]})
    if (body.get("stream_options") or {}).get("include_usage"):
        usage = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": len(prompt) + count}
        yield event({**top, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


@dataclass
class TokenEngine(Engine):
    """`mode` further: `die` after `die_after` events of its stream, `deaf` to token ids of a chat, `drift` in its
    tokens when it goes on, `abort` instead of dying as vLLM does when it is told to stop."""

    die_after: int = 5
    merge: int = 1

    async def _stream(self, request: web.Request, body: JSON) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for i, one in enumerate(events(self._misread(body), request.path, merge=self.merge, name=self.name)):
            if i == self.die_after and self.mode == "abort":
                last = {"index": 0, "text": "", "finish_reason": "abort", "token_ids": []}
                await response.write(event({"id": "x", "choices": [last]}) + b"data: [DONE]\n\n")
                return response
            if i == self.die_after and self.mode == "die":
                await asyncio.sleep(0.02)
                drop(request)
                return response
            await response.write(one)
            await asyncio.sleep(self.gap_s)
        return response

    def _misread(self, body: JSON) -> JSON:
        if self.mode == "deaf" and "kv_transfer_params" in body:
            return {k: v for k, v in body.items() if k != "kv_transfer_params"}
        return body


def seen(events_of_client: list[JSON]) -> dict[str, Any]:
    """What a client makes of its events, and what it must not get twice."""
    choices = [c for e in events_of_client for c in e.get("choices", [])]
    return {
        "text": "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices),
        "ids": [t for c in choices for t in c.get("token_ids") or []],
        "roles": sum("role" in c.get("delta", {}) for c in choices),
        "finish": [c["finish_reason"] for c in choices if c.get("finish_reason")],
        "usage": [e["usage"] for e in events_of_client if e.get("usage")],
        "answers": {(e["id"], e["created"]) for e in events_of_client if "id" in e},
        "prompts": sum(bool(x.get("prompt_token_ids")) for x in (*events_of_client, *choices)),
        "errors": [e["error"] for e in events_of_client if "error" in e],
    }
