"""What is passed on unread is what would be passed on read, counted alike; and the histogram that counts it."""

import asyncio
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from llmservice_core.model import ServiceClass, Slo
from llmservice_serving.router import rules
from llmservice_serving.router.answer import Answer
from llmservice_serving.router.gap_times import TimesMetric
from llmservice_serving.router.metrics import GAP_BUCKETS_S
from llmservice_serving.router.sse import END, Reader, Template
from tests.serving.router_fakes import Engine, router

PATIENT = settings(deadline=None)  # on a machine with neighbours one example may take long
TEXTS = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        [' "usage":{', "_transfer_params", '","finish_reason":"abort', "a\n\ndata: [DONE]\n\n", "\\", 'x"']
    ),
)


def event(text: str, **more: object) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
    data = {"id": "x", "model": 'm"text":"', "choices": [{**choice, **more}], **({"usage": None} if not more else {})}
    return b"data: " + json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


OTHERS = st.sampled_from(
    [
        event("a", finish_reason="abort"),
        event("a", finish_reason="stop"),
        b'data: {"error":{"message":"boom"}}',
        b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":1}}',
        b'data: {"id":"x","choices":[{"text":"a"}],"kv_transfer_params":{"a":1}}',
        b"data: [DONE]",
        b": a comment",
    ]
)


@PATIENT
@given(TEXTS, st.one_of(TEXTS.map(event), OTHERS))
def test_what_fits_is_what_a_reader_would_pass_as_one_token(first: str, second: bytes) -> None:
    template, reader = Template(), Reader(wants_usage=False)
    template.learn(event(first))
    if template.fits(chunk(second + END)):
        shown = reader.read(second)
        assert reader.tokens == 1
        if b"_transfer_params" in second:  # in its text, where the reader looks closer and drops the empty usage
            assert shown is not None
            assert json.loads(shown[6:]) | {"usage": None} == json.loads(second[6:])
        else:
            assert shown == second


@PATIENT
@given(
    st.text(alphabet=st.characters(exclude_characters='"\\', exclude_categories=["Cs"], min_codepoint=32), max_size=300)
)
def test_nearly_every_event_fits(text: str) -> None:
    """Without this the law above would hold for a template that nothing fits."""
    template = Template()
    assert not template.fits(chunk(event(text) + END))
    template.learn(event(" word"))
    assert template.fits(chunk(event(text) + END))


def test_only_one_whole_chunk_fits() -> None:
    template, data = Template(), event("abc") + END
    template.learn(event("de"))
    whole = chunk(data)
    assert template.fits(whole)
    bad = [whole[:-1], whole[1:], whole * 2, chunk(data * 2), b"0" + whole, whole.upper(), data]
    bad += [
        b"%x;a=b\r\n%b\r\n" % (len(data), data),
        b"%x\r\n%b\r\n" % (len(data) - 1, data),
        chunk(event("abc") + b"\n"),
    ]
    assert [b for b in bad if template.fits(b)] == []
    template.forget()
    assert not template.fits(whole)


def with_ids(text: str, ids: list[int], finish: str | None) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, "prompt_token_ids": None}
    data = {"id": "x", "object": "text_completion", "choices": [{**choice, "token_ids": ids}]}
    return b"data: " + json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


IDS = st.lists(st.integers(0, 200_000), min_size=1, max_size=2)


@PATIENT
@given(st.lists(st.builds(with_ids, TEXTS, IDS, st.sampled_from([None, None, None, "stop"])), max_size=8))
def test_an_answer_that_takes_chunks_is_the_answer_that_reads_events(events: list[bytes]) -> None:
    """The same bytes for the client and the same memory of them, should another engine have to go on."""
    one, other = answer_of(), answer_of()
    for each in events:
        shown = one.read(each)
        assert shown is not None
        taken = other.take(chunk(each + END))
        assert (taken or chunk((other.read(each) or b"") + END)) == chunk(shown + END)
        assert (one.sent, one.tokens, one.usage) == (other.sent, other.tokens, other.usage)


def test_nearly_every_event_with_a_token_is_taken() -> None:
    one = answer_of()
    one.read(with_ids(" a", [7], None))
    assert one.take(chunk(with_ids("ü €", [4711], None) + END)) is not None
    assert one.sent.tokens.tolist() == [7, 4711]
    assert one.sent.chars == 5
    assert one.take(chunk(with_ids('a"', [1], None) + END)) is None
    assert one.take(chunk(with_ids("a", [1, 2], None) + END)) is None


def answer_of() -> Answer:
    c = ServiceClass(name="only", ttft=Slo(target_s=1.0, percentile=95), tbt=Slo(target_s=0.1, percentile=99))
    raw = b'{"model": "m", "prompt": "a", "stream": true, "temperature": 0, "stop": ["ab"]}'
    return Answer(rules.read("/v1/completions", raw, c))


@PATIENT
@given(st.lists(st.one_of(st.floats(0, 10), st.sampled_from(GAP_BUCKETS_S)), max_size=30))
def test_gap_times_are_exposed_as_the_library_s_own_histogram_is(seconds: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    made = TimesMetric("gap_seconds", "What it is", ("a", "b"), GAP_BUCKETS_S, ours).labels("x", "y")
    wanted = Histogram("gap_seconds", "What it is", ("a", "b"), buckets=GAP_BUCKETS_S, registry=theirs).labels("x", "y")
    for value in seconds:
        made.observe(value)
        wanted.observe(value)
    assert generate_latest(ours) == generate_latest(theirs)


async def answer(url: str, version: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    body = b'{"model": "chat", "prompt": "a", "stream": true}'
    head = f"POST /v1/completions HTTP/{version}\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    got = await reader.read()
    writer.close()
    return got.partition(b"\r\n\r\n")[2]


async def test_each_client_gets_the_framing_that_it_understands(tmp_path: Path) -> None:
    engine = Engine("m", tokens=6, gap_s=0.01)
    one = b'data: {"id":"x","object":"text_completion","choices":[{"index":0,"text":"m%d ","finish_reason":null}]}\n\n'
    parts = [*(one % i for i in range(6)), b"data: [DONE]\n\n"]
    async with router(tmp_path, mixed=[engine], resume="off") as r:
        assert await answer(r.url, "1.1") == b"".join(map(chunk, parts)) + b"0\r\n\r\n"
        assert await answer(r.url, "1.0") == b"".join(parts)
        assert await r.metric("llmservice_router_chunk_gap_seconds_count") == 10
        assert await r.metric("llmservice_router_output_tokens_total") == 12
