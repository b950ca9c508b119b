"""The P/D request rules and what never reaches an engine: pure functions on bodies, one test per rule."""

import json
from typing import Any

import pytest

from llmservice_core.contract import STRIPPED_FIELDS
from llmservice_serving.router import rules, sse
from llmservice_serving.router.errors import Refusal, as_openai
from llmservice_serving.router.service_config import BadManifest, ServiceConfig, from_manifest
from llmservice_serving.router.settings import read as read_settings
from tests.serving.router_fakes import MANIFEST

CONFIG: ServiceConfig = from_manifest(MANIFEST)


def ask(body: dict[str, Any]) -> rules.Ask:
    return rules.read("/v1/completions", json.dumps(body).encode(), CONFIG.default)


SPLIT = {
    "a text": {"prompt": "a"},
    "one text in a list": {"prompt": ["a"]},
    "token ids": {"prompt": [1, 2, 3]},
    "token ids in a list": {"prompt": [[1, 2, 3]]},
    "chat": {"messages": [{"role": "user", "content": "a"}]},
    "n = 1": {"prompt": "a", "n": 1},
    "n unset": {"prompt": "a", "n": None},
    "best_of = 1": {"prompt": "a", "best_of": 1},
    "echo false": {"prompt": "a", "echo": False},
    "logprobs of the answer": {"prompt": "a", "logprobs": 5},
}
WHOLE = {
    "several texts": ({"prompt": ["a", "b"]}, "a list of prompts"),
    "several token lists": ({"prompt": [[1], [2]]}, "a list of prompts"),
    "n": ({"prompt": "a", "n": 2}, "n > 1"),
    "best_of": ({"prompt": "a", "best_of": 3}, "best_of > 1"),
    "echo": ({"prompt": "a", "echo": True}, "echo"),
    "prompt_logprobs": ({"prompt": "a", "prompt_logprobs": 1}, "prompt_logprobs"),
    "prompt_logprobs 0": ({"prompt": "a", "prompt_logprobs": 0}, "prompt_logprobs"),
    "beam search": ({"prompt": "a", "use_beam_search": True}, "use_beam_search"),
    "embeddings as prompt": ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
    "chat with n": ({"messages": [], "n": 4}, "n > 1"),
}


@pytest.mark.parametrize("body", SPLIT.values(), ids=SPLIT.keys())
def test_may_be_split_into_prefill_and_decode(body: dict[str, Any]) -> None:
    assert rules.why_one_step(body) is None


@pytest.mark.parametrize(("body", "why"), WHOLE.values(), ids=WHOLE.keys())
def test_needs_one_engine(body: dict[str, Any], why: str) -> None:
    assert rules.why_one_step(body) == why


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a", "n": "2"}, "n"),
        ({"prompt": "a", "n": 2.0}, "n"),
        ({"prompt": "a", "n": True}, "n"),
        ({"prompt": "a", "best_of": "3"}, "best_of"),
        ({"prompt": "a", "stream": 1}, "stream"),
        ({"prompt": "a", "stream": "true"}, "stream"),
    ],
)
def test_a_type_that_vllm_would_read_as_something_else_is_refused(body: dict[str, Any], param: str) -> None:
    """vLLM makes n=2 of "2": split in two steps, its second answer would read KV blocks that were freed."""
    with pytest.raises(Refusal) as refused:
        ask(body)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_pictures_are_no_text() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    content = [{"type": "text", "text": "what is this?"}, picture]
    seen = ask({"messages": [{"role": "user", "content": content}]})
    assert seen.prompt_bytes < 100
    assert seen.has_media
    assert not ask({"messages": [{"role": "user", "content": "image_url"}]}).has_media


def test_a_body_nested_without_end_is_refused() -> None:
    nested = "[" * 5000 + "]" * 5000
    raw = f'{{"messages": {nested}}}'.encode()
    with pytest.raises(Refusal) as refused:
        rules.read("/v1/chat/completions", raw, CONFIG.default)
    assert refused.value.status == 400


def test_prefill_copy_asks_for_one_token_and_keeps_the_blocks() -> None:
    body = {"prompt": "a", "max_tokens": 99, "max_completion_tokens": 98, "min_tokens": 7, "stream": True}
    copy = rules.prefill_copy(ask({**body, "stream_options": {"include_usage": True}, "temperature": 0}), 0.25)
    assert (copy["max_tokens"], copy["max_completion_tokens"]) == (1, 1)
    assert not {"stream", "stream_options", "min_tokens"} & copy.keys()
    assert copy["kv_transfer_params"]["do_remote_decode"] is True
    assert copy["temperature"] == 0
    assert copy["vllm_xargs"] == {"class": "batch", "ttft_s": 30.0, "tbt_s": 0.5, "age_s": 0.25}


def test_decode_copy_keeps_the_request_and_carries_the_parameters_unchanged() -> None:
    params = {"remote_host": "10.0.0.1", "new_field_of_a_later_vllm": [1, {"a": None}]}
    copy = rules.decode_copy(ask({"prompt": "a", "max_tokens": 99, "min_tokens": 7}), 1.0, params)
    assert copy["kv_transfer_params"] == params
    assert (copy["max_tokens"], copy["min_tokens"]) == (99, 7)
    assert "stream_options" not in copy


def test_usage_is_always_asked_for_in_streams() -> None:
    assert rules.decode_copy(ask({"stream": True}), 0)["stream_options"] == {"include_usage": True}
    own = {"include_usage": True, "continuous_usage_stats": True}
    assert rules.decode_copy(ask({"stream": True, "stream_options": own}), 0)["stream_options"] == own
    # Without include_usage the client would see counts that it did not ask for.
    without = {"include_usage": False, "continuous_usage_stats": True}
    copy = rules.decode_copy(ask({"stream": True, "stream_options": without}), 0)
    assert copy["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("name", [*STRIPPED_FIELDS, "ec_transfer_params", "request_id"])
def test_a_field_that_engines_trust_is_dropped(name: str) -> None:
    cleaned = ask({"prompt": "a", name: {"class": "interactive"}})
    for copy in (rules.prefill_copy(cleaned, 0), rules.decode_copy(cleaned, 0)):
        assert copy.get(name) != {"class": "interactive"}


def test_a_doubled_key_does_not_slip_through() -> None:
    raw = b'{"prompt": "a", "kv_transfer_params": {"x": 1}, "kv_transfer_params": {"x": 2}}'
    assert "kv_transfer_params" not in rules.read("/v1/completions", raw, CONFIG.default).body


@pytest.mark.parametrize("raw", [b"", b"[1]", b"{", b'"a"', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(Refusal, match="body"):
        rules.read("/v1/completions", raw, CONFIG.default)


def test_prompt_size_counts_text_and_knows_token_ids() -> None:
    assert rules.prompt_size({"prompt": [5] * 300}) == (0, 300)
    assert rules.prompt_size({"prompt": [[1, 2], [3]]}) == (0, 3)
    assert rules.prompt_size({"prompt": "grüße"}) == (7, None)
    assert rules.prompt_size({"messages": [{"role": "u", "content": [{"type": "t", "text": "abc"}]}]}) == (5, None)


def test_class_by_header_default_and_unknown() -> None:
    assert CONFIG.class_for("interactive").ttft.target_s == 0.5
    assert CONFIG.class_for(None).name == "batch"
    with pytest.raises(Refusal, match="use one of: interactive, batch") as refusal:
        CONFIG.class_for("gold")
    assert refusal.value.status == 400


@pytest.mark.parametrize("change", [{"classes": []}, {"classes": None}, {"model": None}, {"classes": [{"name": "a"}]}])
def test_a_manifest_that_cannot_be_read_says_so(change: dict[str, Any]) -> None:
    with pytest.raises(BadManifest):
        from_manifest({**MANIFEST, "spec": {**MANIFEST["spec"], **change}})


def test_events_are_cut_wherever_the_network_breaks_them() -> None:
    stream = b'data: {"choices":[{"text":"\xc3\xbc"}]}\n\ndata: {"choices":[]}\n\ndata: [DONE]\n\n'
    for size in range(1, len(stream)):
        cutter = sse.Cutter()
        cut = [e for i in range(0, len(stream), size) for e in cutter.feed(stream[i : i + size])]
        assert b"".join(e + sse.END for e in cut) == stream


def test_usage_is_hidden_from_those_who_did_not_ask() -> None:
    final = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
    hidden, shown = sse.Reader(wants_usage=False), sse.Reader(wants_usage=True)
    assert hidden.read(final) is None
    assert shown.read(final) == final
    assert hidden.usage == shown.usage == {"prompt_tokens": 3, "completion_tokens": 2}


def test_kv_parameters_never_reach_a_client_and_text_about_them_does() -> None:
    reader = sse.Reader(wants_usage=False)
    leaked = reader.read(b'data: {"choices":[{"text":"a"}],"kv_transfer_params":{"remote_host":"10.0.0.9"}}')
    assert leaked == b'data: {"choices":[{"text":"a"}]}'
    told = b'data: {"choices":[{"text":"about kv_transfer_params"}]}'
    assert reader.read(told) == told
    assert reader.tokens == 2


@pytest.mark.parametrize("text", [b'{"detail": "no"}', b'{"detail": [{"loc": 1}]}', b"plain", b"[1]"])
def test_every_refusal_of_an_engine_gets_openai_s_shape(text: bytes) -> None:
    error = as_openai(422, text)["error"]
    assert error["code"] == 422
    assert error["message"]
    assert {"type", "param"} <= error.keys()


def test_settings_from_flags_over_environment() -> None:
    environ = {"LLMSERVICE_SERVICE": "ns/chat", "LLMSERVICE_ROUTER_PORT": "81", "LLMSERVICE_ROUTER_EXCLUDE_S": "1.5"}
    settings = read_settings(["--port", "82", "--prefill", "http://a", "--prefill", "http://b"], environ)
    assert (settings.service, settings.port, settings.exclude_s) == ("ns/chat", 82, 1.5)
    assert settings.prefill == ("http://a", "http://b")
    assert read_settings([], {"LLMSERVICE_ROUTER_PORT": "tcp://10.0.0.1:80"}).port == 8080
    with pytest.raises(ValueError, match="LLMSERVICE_ROUTER_PORT must be of type int"):
        read_settings([], {"LLMSERVICE_ROUTER_PORT": "x"})
    with pytest.raises(SystemExit):
        read_settings(["--policy", "best"], {})
