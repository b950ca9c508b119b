"""What may go to an engine and in which form: pure functions on the JSON body of a request.

A body names neither its class nor a KV host here: whatever a client wrote into fields that engines trust is dropped.
Why a request cannot be split into prefill and decode is decided here too; where it goes then is core/routing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from llmservice_core.affinity import text_blocks, token_blocks
from llmservice_core.contract import (
    FIELD_CACHE_SALT,
    STRIPPED_FIELDS,
    XARG_AGE_S,
    XARG_CLASS,
    XARG_TBT_S,
    XARG_TENANT,
    XARG_TTFT_S,
)
from llmservice_core.model import ServiceClass
from llmservice_serving.router.errors import JSON, Refusal

TRUSTED_FIELDS = (*STRIPPED_FIELDS, "ec_transfer_params", "request_id")
"""`ec_transfer_params` names a host like `kv_transfer_params` does; a chosen `request_id` could be somebody else's."""

MEDIA = frozenset({"image_url", "image_embeds", "video_url", "audio_url", "audio_embeds", "input_audio", "file"})
"""Parts of a chat message whose bytes are no text: a picture of 1 MB may be 600 tokens."""

MOST_ANSWERS = 1_000_000
"""Of one prompt, for counting: a larger number fits no budget anyway, and a huge one fits no float."""

MOST_TOKEN_ID = 1 << 62

REMOTE_DECODE = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
"""Asks a prefill engine to keep the KV blocks for a decode engine (vLLM 0.32, NixlConnector)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request after reading: the cleaned body and what the router needs to know of it."""

    path: str
    body: JSON
    service_class: ServiceClass
    is_stream: bool
    wants_usage: bool
    prompt_bytes: int
    """Of text; pictures and sound are not counted."""
    has_media: bool
    """Then tokens per byte of text say nothing, and nothing is learned from them."""
    prompt_tokens: int | None
    """Known only when the prompt came as token ids."""
    limit_tokens: int | None
    one_step: str | None
    """Why the request cannot be split into prefill and decode, None when it can."""
    cache_salt: str | None = None
    """Its tenant's, so that no other can find out what is in its prefix cache; None where nobody has a key."""
    tenant: str = ""
    """Empty where nobody has a key."""


def read(path: str, raw: bytes, service_class: ServiceClass, cache_salt: str | None = None, tenant: str = "") -> Ask:
    body = clean(parse(raw))
    refuse_wrong_types(body)
    try:
        return replace(_ask(path, body, service_class, cache_salt), tenant=tenant)
    except RecursionError as error:
        raise Refusal(400, "The body is nested too deeply.") from error


def refuse_wrong_types(body: JSON) -> None:
    """Fields that decide the way of a request. vLLM takes "2" for 2 and 1 for true: what we read must be what it reads,
    or a request for two answers would be split as if it were for one, and its blocks be read after they were freed."""
    for field in ("n", "best_of"):
        if (value := body.get(field)) is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise Refusal(400, f"`{field}` must be a whole number.", param=field)
    if not isinstance(body.get("stream"), bool | None):
        raise Refusal(400, "`stream` must be true or false.", param="stream")


def _ask(path: str, body: JSON, service_class: ServiceClass, cache_salt: str | None) -> Ask:
    is_stream = body.get("stream") is True
    options = body.get("stream_options")
    size, exact = prompt_size(body)
    return Ask(
        path=path,
        body=body,
        service_class=service_class,
        is_stream=is_stream,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
        prompt_bytes=size,
        has_media=_has_media(body.get("messages")),
        prompt_tokens=exact,
        limit_tokens=_limit(body),
        one_step=why_one_step(body),
        cache_salt=cache_salt,
    )


def parse(raw: bytes) -> JSON:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise Refusal(400, "The body must be a JSON object.")
    return body


def clean(body: JSON) -> JSON:
    """Without the fields that engines trust. Re-serialised later, so a doubled key cannot smuggle one through."""
    return {key: value for key, value in body.items() if key not in TRUSTED_FIELDS}


def why_one_step(body: JSON) -> str | None:
    """The rules of disaggregation: one prompt, one answer, and nothing that only the prefill step can compute."""
    return next((why for why in _obstacles(body)), None)


def _obstacles(body: JSON) -> Iterator[str]:
    if is_list_of_prompts(body.get("prompt")):
        yield "a list of prompts"
    for field, least in (("n", 1), ("best_of", 1)):
        if (body.get(field) or 0) > least:
            yield f"{field} > {least}"
    for field in ("echo", "use_beam_search"):
        if body.get(field):
            yield field
    # 0 asks for the log probability of each prompt token itself, so it counts as set.
    if body.get("prompt_logprobs") is not None:
        yield "prompt_logprobs"
    if body.get("prompt_embeds") is not None:
        yield "prompt_embeds"


def is_list_of_prompts(prompt: object) -> bool:
    """`["a", "b"]` or `[[1, 2], [3]]`; one prompt in a list is one prompt, and `[1, 2]` are its tokens."""
    return isinstance(prompt, list) and len(prompt) > 1 and not all(isinstance(p, int) for p in prompt)


def prefill_copy(ask: Ask, age_s: float) -> JSON:
    """The request as the prefill engine gets it: computes the prompt, one token, keeps the blocks."""
    dropped = ("stream", "stream_options", "min_tokens")
    kept = {key: value for key, value in ask.body.items() if key not in dropped}
    one_token = {"max_tokens": 1, "max_completion_tokens": 1}
    return {**kept, **one_token, **trusted(ask, age_s), "kv_transfer_params": dict(REMOTE_DECODE)}


def decode_copy(ask: Ask, age_s: float, kv_transfer_params: JSON | None = None) -> JSON:
    """The request as the engine gets it that answers; `kv_transfer_params` exactly as the prefill engine gave them."""
    ours = trusted(ask, age_s)
    if kv_transfer_params is not None:
        ours["kv_transfer_params"] = kv_transfer_params
    if ask.is_stream:
        ours["stream_options"] = stream_options(ask)
    return {**ask.body, **ours}


def stream_options(ask: Ask) -> JSON:
    """Usage is always asked for; the router learns from it and hides it from a client that did not ask."""
    asked = ask.body.get("stream_options")
    return {**asked, "include_usage": True} if ask.wants_usage and asked else {"include_usage": True}


def trusted(ask: Ask, age_s: float) -> JSON:
    """What engines believe of a request, alike in both copies: a decode engine looks for blocks under the same salt."""
    salt = {} if ask.cache_salt is None else {FIELD_CACHE_SALT: ask.cache_salt}
    return {"vllm_xargs": xargs(ask, age_s), **salt}


def xargs(ask: Ask, age_s: float) -> JSON:
    c = ask.service_class
    tenant = {XARG_TENANT: ask.tenant} if ask.tenant else {}
    return {
        XARG_CLASS: c.name,
        XARG_TTFT_S: c.ttft.target_s,
        XARG_TBT_S: c.tbt.target_s,
        XARG_AGE_S: round(age_s, 6),
        **tenant,
    }


def prompt_blocks(ask: Ask) -> tuple[bytes, ...]:
    """Hashes of the prompt's beginning, alike for prompts that begin alike. Tenants do not meet: their caches do not.

    Chat messages as JSON: what was said before is the beginning of what is said now.
    """
    prompt, seed = ask.body.get("prompt"), ask.tenant
    if isinstance(prompt, list) and prompt and all(type(p) is int and abs(p) < MOST_TOKEN_ID for p in prompt):
        return token_blocks(prompt, seed)
    parts = (ask.body.get(field) for field in ("tools", "messages", "prompt"))
    text = "".join(part if isinstance(part, str) else json.dumps(part) for part in parts if part is not None)
    return text_blocks(text.encode(errors="replace"), seed)


def prompt_size(body: JSON) -> tuple[int, int | None]:
    """Bytes of text in the prompt, and its tokens where the client sent token ids."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and all(isinstance(p, int) for p in prompt):
        return 0, len(prompt)
    if isinstance(prompt, list) and prompt and all(isinstance(p, list) for p in prompt):
        return 0, sum(len(p) for p in prompt)
    return sum(_text_bytes(body.get(field)) for field in ("prompt", "messages", "tools")), None


def answers(body: JSON) -> int:
    """How many answers are computed: of each prompt, as many as are asked for or chosen from (engines refuse many)."""
    each = min(MOST_ANSWERS, max(1, *(body.get(field) or 1 for field in ("n", "best_of"))))
    prompt = body.get("prompt")
    return each * (len(prompt) if isinstance(prompt, list) and is_list_of_prompts(prompt) else 1)


def _text_bytes(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, dict):
        return sum(_text_bytes(v) for key, v in value.items() if key not in MEDIA)
    return sum(_text_bytes(v) for v in value) if isinstance(value, list) else 0


def _has_media(value: object) -> bool:
    if isinstance(value, dict):
        return any(key in MEDIA or _has_media(v) for key, v in value.items())
    return isinstance(value, list) and any(map(_has_media, value))


def _limit(body: JSON) -> int | None:
    given = [v for v in (body.get("max_completion_tokens"), body.get("max_tokens")) if isinstance(v, int)]
    return given[0] if given else None


def total_of(usage: JSON) -> float | None:
    """Prompt and answers; None where the engine did not count them."""
    prompt, answers = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return float(prompt + answers) if isinstance(prompt, int) and isinstance(answers, int) else None
