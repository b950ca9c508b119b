"""May a stream whose engine died go on in another one, and from which token? Pure: bodies and counts, no I/O.

The rest of an answer is asked for as a request whose prompt is the old prompt and the tokens that are out, as token ids
(of a chat in `kv_transfer_params.prompt_token_ids`: vLLM 0.32, render_chat; an engine that does not know the field is
found out by the prompt that it says it read). That gives the same tokens where nothing but the tokens so far decides
the next one: one answer, no grammar, no penalty on the answer's own tokens, no tools. What is known to be so is a list
of fields here, and a request with any other field is not resumed.

Greedy: the same tokens (as far as engines compute the same in batches of another shape: exactly in fp32). Sampled: the
same distribution, because all tokens that were drawn are kept; a seed promises the same tokens, so it is refused.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from llmservice_serving.router.errors import JSON
from llmservice_serving.router.rules import Ask
from llmservice_serving.router.sse import StreamError

CHAT: Final = "/v1/chat/completions"
DEFAULT_LIMIT: Final = 16
"""Tokens of a completion that names no limit (OpenAI's API)."""

KNOWN: Final = frozenset(
    {
        "model", "messages", "prompt", "stream", "stream_options", "user", "metadata", "store", "service_tier",
        "session_id", "temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "logit_bias",
        "allowed_token_ids", "max_tokens", "max_completion_tokens", "min_tokens", "stop", "stop_token_ids",
        "include_stop_str_in_output", "ignore_eos", "skip_special_tokens", "return_token_ids", "add_special_tokens",
        "add_generation_prompt", "continue_final_message", "chat_template", "chat_template_kwargs", "documents",
        "reasoning_effort", "parallel_tool_calls", "length_penalty",
    }
)  # fmt: skip
"""They decide the prompt, which is kept as tokens, or mean the same for any part of an answer, or are seen to below."""

NEUTRAL: Final[Mapping[str, object]] = MappingProxyType(
    {
        "n": 1,
        "best_of": 1,
        "echo": False,
        "use_beam_search": False,
        "logprobs": False,
        "top_logprobs": 0,
        "prompt_logprobs": None,
        "prompt_embeds": None,
        "suffix": None,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "structured_outputs": None,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "bad_words": [],
        "spaces_between_special_tokens": True,
        "truncate_prompt_tokens": None,
        "include_reasoning": True,
        "stream_interval": None,
        "watermarking": False,
    }
)
"""Allowed with this value or none. Another one looks at the answer as a whole, or at the prompt as it was.

Penalties of presence and frequency count the answer's tokens and not the prompt's; a repetition penalty counts both."""

SEED, STOP, MEDIA, PROMPTS = "seed", "stop", "media", "a list of prompts"
OTHER, LIMIT = "other field", "limit"
NO_IDS, PARSED, IN_A_CHUNK, OFF, DIVERGED = "no token ids", "parsed", "within a chunk", "off", "diverged"
WHY_NOT: Final = (*NEUTRAL, SEED, STOP, MEDIA, PROMPTS, OTHER, LIMIT, NO_IDS, PARSED, IN_A_CHUNK, OFF, DIVERGED)
"""All reasons, for metrics: a client cannot make one up."""
RESUMED, NO_ENGINE = "resumed", "no engine"


def why_not(ask: Ask) -> str | None:
    """Why the answer to this request could not go on elsewhere, as far as the request tells; None: it could."""
    body = ask.body
    found = (name for name, value in body.items() if name not in KNOWN and not _is_neutral(name, value))
    for name in found:
        return name if name in NEUTRAL else OTHER
    if ask.has_media:
        return MEDIA
    if ask.one_step is not None:
        return PROMPTS
    are_counts = all(_is_count(body.get(name)) for name in ("max_tokens", "max_completion_tokens", "min_tokens"))
    if not are_counts or _stops(body) is None:
        return LIMIT
    return None if is_greedy(body) else _why_not_sampled(body)


def _why_not_sampled(body: JSON) -> str | None:
    """A part of a stop string may be out, and the tokens in front of it may not be drawn again."""
    if body.get("seed") is not None:
        return SEED
    return STOP if _longest(body) > 1 else None


def _is_neutral(name: str, value: object) -> bool:
    """1 is not true here, and 0 not false: `logprobs: 0` asks for something."""
    neutral = NEUTRAL.get(name)
    return value is None or (isinstance(value, bool) == isinstance(neutral, bool) and value == neutral)


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def is_greedy(body: JSON) -> bool:
    """Exactly 0: vLLM raises smaller temperatures to 0.01. Unset is the model's own default, so not known to be 0."""
    value = body.get("temperature")
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _stops(body: JSON) -> list[str] | None:
    """The stop strings; None: not understood."""
    stop = body.get("stop")
    given = [stop] if isinstance(stop, str) else stop or []
    return given if isinstance(given, list) and all(isinstance(s, str) for s in given) else None


class DivergedError(StreamError):
    """The second engine computes other tokens than the client already has."""


def _longest(body: JSON) -> int:
    return max((len(s) for s in _stops(body) or ()), default=0)


@dataclass(slots=True, kw_only=True)
class Sent:
    """What the client has of one answer.

    `marks` are places where an answer can be cut: (tokens, characters of their text). After a single token that brought
    text, all its text is there; in the middle of a character or of several tokens in one chunk nobody knows.
    """

    overlap: int = 0
    """Characters before the end in which a stop string may have begun: so far in front of the end the cut must be."""
    held: int = 0
    """Characters that an engine holds back because a stop string may begin there."""
    prompt: "array[int] | None" = None
    """As the engine read it; None until it has said so."""
    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    chars: int = 0
    marks: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    is_parsed: bool = False
    """A parser of the engine took reasoning or tool calls out of the text."""
    finish: str | None = None

    def mark(self, tokens: int, chars: int) -> None:
        """Marks too far back are dropped: the first that is left is where to cut. All text so far is what was shown and
        what is held back, if anything was shown."""
        if tokens <= self.marks[-1][0]:
            return
        self.marks.append((tokens, chars))
        text = self.chars + self.held if self.chars else 0
        while len(self.marks) > 1 and self.marks[1][1] + self.overlap <= text:
            del self.marks[0]


def sent_for(ask: Ask) -> Sent:
    """Before the first token of a request that `why_not` lets go on."""
    overlap = max(0, _longest(ask.body) - 1)
    return Sent(overlap=overlap, held=0 if ask.body.get("include_stop_str_in_output") else overlap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """Where a stream goes on."""

    prompt: tuple[int, ...]
    """Token ids: of the old prompt, then `tokens` of the answer."""
    tokens: int
    chars: int
    """Of the text of those tokens."""


def go_on(ask: Ask, sent: Sent) -> Continuation | str:
    """Where the answer goes on, or why it cannot.

    A greedy answer may be cut before its end: tokens after the cut come again and are compared with those that came.
    A sampled one may not: to draw a token again because of what it was would change how often it is drawn.
    """
    if sent.prompt is None:
        return NO_IDS
    if sent.is_parsed:
        return PARSED
    tokens, chars = sent.marks[0]
    if tokens < len(sent.tokens) and not is_greedy(ask.body):
        return IN_A_CHUNK
    return Continuation(prompt=(*sent.prompt, *sent.tokens[:tokens]), tokens=tokens, chars=chars)


def reason_of(error: StreamError) -> str:
    """Of the failure that it is, for metrics and logs."""
    return DIVERGED if isinstance(error, DivergedError) else "stream_error"


def prefill_body(ask: Ask, body: JSON, c: Continuation) -> JSON:
    """The prefill copy of a request, for the rest of its answer."""
    return {**body, **_prompt(ask, body, c)}


def decode_body(ask: Ask, body: JSON, c: Continuation) -> JSON:
    """The decode copy, for the rest: what is out counts for its limits."""
    counts = {name: value - c.tokens for name, value in _limits(ask).items()}
    if least := ask.body.get("min_tokens"):
        counts["min_tokens"] = max(0, least - c.tokens)
    return {**body, **counts, **_prompt(ask, body, c)}


def _prompt(ask: Ask, body: JSON, c: Continuation) -> JSON:
    """Token ids, where each of the two paths takes them. A chat needs its messages still, though nobody reads them."""
    ids = list(c.prompt)
    if ask.path != CHAT:
        return {"prompt": ids}
    return {"kv_transfer_params": {**(body.get("kv_transfer_params") or {}), "prompt_token_ids": ids}}


def _limits(ask: Ask) -> dict[str, int]:
    """Fields and values of the limit in force; none: the engine's own, which is what the model's length leaves."""
    one, other = ask.body.get("max_completion_tokens"), ask.body.get("max_tokens")
    if ask.path != CHAT:
        return {"max_tokens": DEFAULT_LIMIT if other is None else other}
    limit = other if one is None else one
    return {} if limit is None else {"max_tokens": limit, "max_completion_tokens": limit}
