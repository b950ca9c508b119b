"""Laws for all bodies and all streams: a client never names an engine's KV, its class, or another's request."""

import json
from typing import Any

from hypothesis import given, reject, settings
from hypothesis import strategies as st

from llmservice_serving.router import rules, sse
from llmservice_serving.router.errors import Refusal
from llmservice_serving.router.service_config import from_manifest
from tests.serving.router_fakes import MANIFEST

LAW = settings(deadline=None, max_examples=60)
CONFIG = from_manifest(MANIFEST)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    leaves, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4), max_leaves=8
)
known = [
    "prompt",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "min_tokens",
    "tools",
]
keys = st.sampled_from([*rules.TRUSTED_FIELDS, *known, "echo", "best_of"]) | st.text()
bodies = st.dictionaries(keys, values, max_size=10)


ways = st.fixed_dictionaries({}, optional={"n": values, "best_of": values, "stream": values})


def read(body: dict[str, Any]) -> rules.Ask:
    try:
        return rules.read("/v1/completions", json.dumps(body).encode(), CONFIG.default)
    except Refusal:
        reject()


@LAW
@given(way=ways)
def test_what_goes_two_ways_asks_for_one_answer_in_the_plainest_types(way: dict[str, Any]) -> None:
    """Or it is refused: nothing that vLLM might read as another number gets past us."""
    try:
        ask = rules.read("/v1/completions", json.dumps({"prompt": "a", **way}).encode(), CONFIG.default)
    except Refusal:
        return
    assert type(way.get("stream")) in (bool, type(None))
    for field in ("n", "best_of"):
        assert type(way.get(field)) in (int, type(None))
        assert ask.one_step is not None or (way.get(field) or 0) <= 1


@LAW
@given(body=bodies, age_s=st.floats(0, 1e4))
def test_only_the_router_writes_what_engines_trust(body: dict[str, Any], age_s: float) -> None:
    ask = read(body)
    prefill, decode = rules.prefill_copy(ask, age_s), rules.decode_copy(ask, age_s, {"remote_host": "ours"})
    assert prefill["kv_transfer_params"] == rules.REMOTE_DECODE
    assert decode["kv_transfer_params"] == {"remote_host": "ours"}
    assert "kv_transfer_params" not in rules.decode_copy(ask, age_s)
    for copy in (prefill, decode):
        assert copy["vllm_xargs"] == rules.xargs(ask, age_s)
        assert not (set(rules.TRUSTED_FIELDS) - {"vllm_xargs", "kv_transfer_params"}) & copy.keys()


@LAW
@given(body=bodies)
def test_everything_else_reaches_the_engine_that_answers_unchanged(body: dict[str, Any]) -> None:
    ours = {*rules.TRUSTED_FIELDS, "stream_options"}
    copy = rules.decode_copy(read(body), 0.0)
    assert {k: v for k, v in copy.items() if k not in ours} == {k: v for k, v in body.items() if k not in ours}


@LAW
@given(body=bodies)
def test_the_prefill_engine_is_asked_for_one_token_and_no_stream(body: dict[str, Any]) -> None:
    copy = rules.prefill_copy(read(body), 0.0)
    assert (copy["max_tokens"], copy["max_completion_tokens"]) == (1, 1)
    assert not {"stream", "stream_options", "min_tokens"} & copy.keys()


@LAW
@given(
    texts=st.lists(st.text(), max_size=8),
    cuts=st.lists(st.integers(1, 40), max_size=20),
    wants=st.booleans(),
)
def test_a_stream_arrives_whole_however_it_is_cut(texts: list[str], cuts: list[int], wants: bool) -> None:
    """Every text event once and in order, the usage event for those who asked, [DONE] last."""
    chunks = [{"choices": [{"index": 0, "text": t}]} for t in texts]
    final = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": len(texts)}}
    events = [sse.DATA + json.dumps(c, separators=(",", ":")).encode() for c in [*chunks, final]] + [sse.DONE]
    stream = b"".join(e + sse.END for e in events)
    cutter, reader, shown = sse.Cutter(), sse.Reader(wants_usage=wants), list[bytes | None]()
    for size in [*cuts, len(stream)]:
        piece, stream = stream[:size], stream[size:]
        shown += map(reader.read, cutter.feed(piece))
    assert [e for e in shown if e is not None] == [*events[: len(texts)], *([events[-2]] if wants else []), sse.DONE]
    assert (reader.tokens, reader.is_done) == (len(texts), True)
    assert reader.usage == final["usage"]
