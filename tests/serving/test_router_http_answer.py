"""HTTP answers of engines: every way to send a body, cut anywhere; and what is no answer."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_serving.router.http_answer import MOST_HEAD, MOST_LINE, Answer, BadAnswerError

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PATIENT = settings(deadline=None)  # on a machine with neighbours one example may take long
BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


def chunks(parts: list[bytes], end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + end


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(at)]


def read(answer: Answer, parts: list[bytes]) -> bytes:
    return b"".join(answer.feed(part) for part in parts)


@PATIENT
@given(BODIES, st.lists(st.integers(0, 400), max_size=20), st.sampled_from([b"0\r\n\r\n", b"00 ;a=b\r\nX: y\r\n\r\n"]))
def test_chunks_cut_anywhere_give_the_body(body: list[bytes], cuts: list[int], end: bytes) -> None:
    answer = Answer()
    assert read(answer, pieces(CHUNKED + chunks(body, end), cuts)) == b"".join(body)
    assert answer.is_whole
    assert answer.may_be_followed


@PATIENT
@given(BODIES, st.lists(st.integers(0, 400), max_size=20))
def test_a_counted_body_cut_anywhere_is_whole_at_its_end(body: list[bytes], cuts: list[int]) -> None:
    whole, answer = b"".join(body), Answer()
    sent = OK + b"Content-Length: %d\r\n\r\n%b" % (len(whole), whole)
    assert read(answer, pieces(sent, cuts)) == whole
    assert answer.may_be_followed


def test_a_body_that_ends_with_the_connection_is_whole_then_and_the_connection_is_not_kept() -> None:
    answer = Answer()
    assert answer.feed(OK + b"\r\nabc") == b"abc"
    assert not answer.is_whole
    answer.end()
    assert answer.is_whole
    assert not answer.may_be_followed


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 2", CHUNKED, CHUNKED + b"3\r\nab", CHUNKED + chunks([b"a"], b"0\r\n")]
)
def test_an_early_end_is_an_error(sent: bytes) -> None:
    answer = Answer()
    answer.feed(sent)
    with pytest.raises(BadAnswerError):
        answer.end()


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        OK + b" folded: x\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b"Name : x\r\n\r\n",
        OK + b"Content-Length: 1, 1\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        OK + b"Content-Encoding: gzip\r\n\r\n",
        OK + b"X: " + b"y" * MOST_HEAD,
        CHUNKED + b"0x3\r\nabc\r\n",
        CHUNKED + b"+3\r\nabc\r\n",
        CHUNKED + b"\r\nabc\r\n",
        CHUNKED + b"3\r\nabcd\r\n",
        CHUNKED + b"1" * MOST_LINE,
        CHUNKED + b"0\r\n" + b"x" * (MOST_HEAD + 1),
    ],
)
def test_what_is_no_answer_is_refused(sent: bytes) -> None:
    with pytest.raises(BadAnswerError):
        Answer().feed(sent)


def test_answers_of_status_1xx_are_passed_over() -> None:
    answer = Answer()
    assert answer.feed(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nab") == b"ab"
    assert answer.head is not None
    assert answer.head.status == 200


def test_a_status_without_a_body_has_none() -> None:
    answer = Answer()
    assert answer.feed(b"HTTP/1.1 204 No Content\r\n\r\n") == b""
    assert answer.may_be_followed


@pytest.mark.parametrize(
    ("head", "is_kept"),
    [
        (OK + b"Content-Length: 0\r\n\r\n", True),
        (OK + b"Content-Length: 0\r\nConnection: Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", True),
        (OK + b"Content-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n", False),
        (CHUNKED + chunks([b"a"]) + b"x", False),
    ],
)
def test_when_the_connection_may_be_used_again(head: bytes, is_kept: bool) -> None:
    """An engine that says more than it was asked would answer the next request with it."""
    answer = Answer()
    answer.feed(head)
    assert answer.is_whole
    assert answer.may_be_followed == is_kept


@PATIENT
@given(BODIES)
def test_a_chunk_begins_where_it_says_so(body: list[bytes]) -> None:
    """What is passed on unread must begin at a chunk's line."""
    answer = Answer()
    answer.feed(CHUNKED)
    assert answer.is_at_chunk
    for part in body:
        sent = chunks([part], b"")
        for at in range(1, len(sent)):
            answer.feed(sent[at - 1 : at])
            assert not answer.is_at_chunk
        answer.feed(sent[-1:])
        assert answer.is_at_chunk
