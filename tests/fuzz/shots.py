"""What a bad client may send, generated: bytes on a connection, with pauses, half-closes and resets between them.

A shot is a function of its number alone, so a failure is repeated by that number.
"""

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CLASSES = ("interactive", "batch", "nobody", "", "ÿ", "a" * 300)
PATHS = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/models")
STRANGE_PATHS = (
    "/", "*", "//v1/models", "/v1/../v1/models", "/v1/models/", "/v1/completions%00", "/v1/%63ompletions", "/%ff%fe",
    "http://x/v1/models", "/v1/models?a=" + "b" * 4000, "/" + "a" * 9000, "/v1/models#x", "/v1/embeddings", "/metrics",
    "/fleet", "/ü".encode().decode("latin-1"), "",
)  # fmt: skip
METHODS = (
    "POST",
    "GET",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "post",
    "X" * 200,
    "P\x00ST",
    "",
)
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "HTTP/1.", "http/1.1", "", "HTTP/1.1 x")
STRANGE_HEADERS = (
    "Content-Length: -1", "Content-Length: 1e3", "Content-Length: 99999999999999999999", "Content-Length: 5, 5",
    "Content-Length: 0", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: xchunked", "Content-Encoding: gzip", "Content-Encoding: br", "Content-Encoding: deflate",
    "Content-Encoding: zstd", "Content-Encoding: nonsense", "Expect: 100-continue", "Expect: the-moon",
    "Connection: upgrade", "Upgrade: websocket", "Upgrade: h2c", "Connection: close", "Connection: keep-alive, close",
    "Content-Type: text/plain; charset=utf-7", "Content-Type: application/json; charset=nonsense", "Content-Type: \xff",
    "Content-Type: multipart/form-data", "Authorization: Bearer", "Authorization: Bearer \xff\xfe", "Authorization:",
    "Authorization: Basic Og==", "X-A : b", " folded: yes", "X-Null: a\x00b", "X-Latin: \xe9", "No colon here",
    ": empty",
    "Host: ", "Host: a\r\nHost: b", "X-Long: " + "z" * 8000, "Cookie: " + "; ".join(f"a{i}=b" for i in range(300)),
    "Range: bytes=0-1", "If-None-Match: *", "x-llmservice-session: \xff" + "s" * 2000, "x-request-id: \t",
)  # fmt: skip
NASTY = (
    None, True, False, 0, -1, 1, 2, 3.5, 1e308, -0.0, 10**30, -(2**63), "", "0", "2", "null", "ü\U0001f600", "\x00",
    "\ud800",
    "a" * 5000, [], {}, [[]], [None], [1, 2, 3], [-1], [10**30], [[1, 2], [3]], ["a", "b"], [True], ["a", 1], {"a": {}},
    {"role": "user"}, [{"role": "user", "content": "hi"}], [{"type": "image_url", "image_url": {"url": "data:,"}}],
    {"type": "json_object"}, {"include_usage": "yes"}, {"include_usage": True},
)  # fmt: skip
FIELDS = (
    "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options", "n", "best_of",
    "echo",
    "logprobs", "prompt_logprobs", "tools", "user", "stop", "seed", "temperature", "min_tokens", "kv_transfer_params",
    "vllm_xargs", "priority", "cache_salt", "request_id", "ec_transfer_params", "prompt_embeds", "use_beam_search",
    "suffix", "response_format", "", "ü", "__class__",
)  # fmt: skip
RAW = (
    b"", b" ", b"null", b"[]", b"{", b"}", b'{"a":', b"NaN", b'{"prompt": NaN}', b'{"n": 1e999}', b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}", b'{"prompt": "\xff"}', b'{"a":1,"a":2}', b"{}{}", b"'{}'", b"\x00" * 50, b'"' + b"a" * 70_000,
    b"[" * 60_000, b'{"a":' * 20_000, b'{"messages":' + b"[" * 900 + b"]" * 900 + b"}", b'{"n": ' + b"9" * 5000 + b"}",
    b'{"prompt": [' + b"1," * 30_000 + b"1]}", b'{"max_tokens": -' + b"9" * 400 + b"}", b" " * 100_000 + b"{}",
)  # fmt: skip
LARGE = 9 << 20
"""More than the router takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """`steps`: bytes to send, seconds to wait, `half` (no more from us) or `reset` (gone, with an RST)."""

    kind: str
    steps: tuple[bytes | float | str, ...]


def shot(number: int) -> Shot:
    rng = random.Random(f"shot {number}")
    kinds = list(_KINDS)
    kind = rng.choices(kinds, [_KINDS[k][1] for k in kinds])[0]
    return Shot(kind=kind, steps=tuple(_KINDS[kind][0](rng)))


Steps = list[bytes | float | str]


def _body(rng: random.Random) -> dict[str, Any]:
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    body: dict[str, Any] = {"model": "chat", "max_tokens": 4, **rng.choice((chat, {"prompt": "hello"}))}
    return body | ({"stream": True} if rng.random() < 0.4 else {})


def _head(body: bytes, rng: random.Random, *more: str, path: str | None = None, method: str = "POST") -> bytes:
    lines = [f"{method} {path or rng.choice(PATHS[:3])} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    if rng.random() < 0.3:
        lines.append(f"x-llmservice-class: {rng.choice(CLASSES)}")
    return "\r\n".join([*lines, *more, "", ""]).encode("latin-1")


def _good(rng: random.Random) -> Steps:
    body = json.dumps(_body(rng)).encode()
    return [_head(body, rng, path=rng.choice(PATHS[:2])) + body]


def _wrong_types(rng: random.Random) -> Steps:
    made = _body(rng)
    for _ in range(rng.randint(1, 4)):
        made[rng.choice(FIELDS)] = rng.choice(NASTY)
    if rng.random() < 0.3 and isinstance(made.get("messages"), list) and made["messages"]:
        made["messages"] = [rng.choice(NASTY), {"role": rng.choice(NASTY), "content": rng.choice(NASTY)}]
    body = json.dumps(made, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
    return [_head(body, rng) + body]


def _not_json(rng: random.Random) -> Steps:
    body = rng.choice(RAW) if rng.random() < 0.6 else _broken(json.dumps(_body(rng)).encode(), rng)
    return [_head(body, rng) + body]


def _broken(text: bytes, rng: random.Random) -> bytes:
    data = bytearray(text)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[at] = rng.randrange(256)
        else:
            del data[at:]
            data += bytes([rng.randrange(256)])
    return bytes(data)


def _strange_head(rng: random.Random) -> Steps:
    body = json.dumps(_body(rng)).encode()
    method = rng.choice(METHODS) if rng.random() < 0.4 else "POST"
    path = rng.choice(STRANGE_PATHS) if rng.random() < 0.4 else rng.choice(PATHS)
    version = rng.choice(VERSIONS) if rng.random() < 0.3 else "HTTP/1.1"
    more = rng.sample(STRANGE_HEADERS, rng.randint(0, 3))
    lines = [f"{method} {path} {version}", "Host: x", f"Content-Length: {len(body)}", *more, "", ""]
    end = rng.choice(("\r\n", "\r\n", "\r\n", "\n", "\r"))
    return [end.join(lines).encode("latin-1") + body]


def _garbage(rng: random.Random) -> Steps:
    whole = _head(b"{}", rng) + b"{}"
    return [_broken(whole, rng) if rng.random() < 0.6 else rng.randbytes(rng.randint(1, 3000)), "half"]


def _chunked(rng: random.Random) -> Steps:
    body = json.dumps(_body(rng)).encode()
    sizes = (
        b"%x" % len(body),
        b"%x;ext=1" % len(body),
        b"-1",
        b"",
        b"zz",
        b"ffffffffffffffff",
        b"%x" % (len(body) + 5),
    )
    ends = (b"0\r\n\r\n", b"0\r\nTrailer: a\r\n\r\n", b"", b"0\r\n", b"\r\n\r\n")
    size = sizes[0] if rng.random() < 0.4 else rng.choice(sizes)
    head = f"POST {rng.choice(PATHS[:2])} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return [head + size + b"\r\n" + body + b"\r\n" + rng.choice(ends), "half"]


def _packed(rng: random.Random) -> Steps:
    """Compressed bodies: honest ones, torn ones, and one that is small outside and large inside."""
    body = json.dumps(_body(rng)).encode() if rng.random() < 0.7 else b'{"prompt": "' + b"a" * LARGE + b'"}'
    packed = gzip.compress(body)
    sent = packed if rng.random() < 0.5 else packed[: rng.randrange(len(packed))]
    return [_head(sent, rng, "Content-Encoding: gzip") + sent]


def _huge(rng: random.Random) -> Steps:
    head = _head(b"a" * LARGE, rng)
    return [head, *[b"a" * 65_536] * 20, rng.choice(("half", "reset"))]


def _slow(rng: random.Random) -> Steps:
    body = json.dumps(_body(rng)).encode()
    whole = _head(body, rng) + body
    at = sorted(rng.sample(range(1, len(whole)), 3))
    parts = [whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True)]
    return [step for part in parts for step in (part, rng.choice((0.0, 0.05, 0.2)))]


def _stalled(rng: random.Random) -> Steps:
    """Nothing more comes, and the client waits: the router's own time-outs must end it."""
    body = json.dumps(_body(rng)).encode()
    whole = _head(body, rng) + body
    return [whole[: rng.randrange(1, len(whole))]]


def _half_closed(rng: random.Random) -> Steps:
    body = json.dumps(_body(rng)).encode()
    whole = _head(body, rng) + body
    return [whole[: rng.choice((len(whole), len(whole), rng.randrange(1, len(whole))))], "half"]


def _reset(rng: random.Random) -> Steps:
    body = json.dumps(_body(rng) | {"stream": True}).encode()
    whole = _head(body, rng) + body
    return [whole[: rng.choice((len(whole), rng.randrange(1, len(whole))))], rng.choice((0.0, 0.01, 0.05)), "reset"]


def _pipelined(rng: random.Random) -> Steps:
    makers: tuple[Callable[[random.Random], Steps], ...] = (_good, _wrong_types, _not_json, _strange_head)
    several = [step for _ in range(rng.randint(2, 4)) for step in rng.choice(makers)(rng)]
    return [b"".join(step for step in several if isinstance(step, bytes)), "half"]


def _nothing(rng: random.Random) -> Steps:
    return [rng.choice(("half", "reset", 0.1))]


_KINDS: dict[str, tuple[Callable[[random.Random], Steps], float]] = {
    "good": (_good, 10),
    "wrong types": (_wrong_types, 30),
    "not JSON": (_not_json, 12),
    "strange head": (_strange_head, 18),
    "garbage": (_garbage, 6),
    "chunked": (_chunked, 5),
    "packed": (_packed, 2),
    "huge": (_huge, 0.5),
    "slow": (_slow, 3),
    "stalled": (_stalled, 1.5),
    "half-closed": (_half_closed, 4),
    "reset": (_reset, 4),
    "pipelined": (_pipelined, 3),
    "nothing": (_nothing, 1),
}
"""Kind -> how it is made, and its share."""
