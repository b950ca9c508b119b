"""Which streams may go on in another engine, and that they then are what one engine would have said."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_serving.router import resume, rules, sse
from llmservice_serving.router.answer import Answer
from llmservice_serving.router.attempts import MAX_RESUMES, Attempts
from llmservice_serving.router.service_config import from_manifest
from tests.serving.resume_fakes import CHAT, FIRST_HALF, events, prompt_of, seen, steps
from tests.serving.router_fakes import MANIFEST

CLASS = from_manifest(MANIFEST).default
COMPLETIONS = "/v1/completions"
GREEDY: dict[str, Any] = {"model": "chat", "prompt": "hello", "max_tokens": 30, "temperature": 0, "stream": True}
SAMPLED = {**GREEDY, "temperature": 0.7}


def ask(body: dict[str, Any], path: str = COMPLETIONS) -> rules.Ask:
    return rules.read(path, json.dumps(body).encode(), CLASS)


MAY = {
    "greedy": {},
    "sampled": {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1},
    "temperature unset": {"temperature": None},
    "greedy with a seed": {"seed": 5},
    "stop strings": {"stop": ["a", "bc"], "include_stop_str_in_output": True},
    "sampled, with a stop of one character": {"temperature": 0.7, "stop": ["x"]},
    "stop tokens": {"stop_token_ids": [3], "ignore_eos": True, "min_tokens": 4},
    "a penalty that counts the prompt, too": {"repetition_penalty": 1.2},
    "biased": {"logit_bias": {"5": 1}, "allowed_token_ids": [1, 2]},
    "neutral values": {"n": 1, "presence_penalty": 0.0, "frequency_penalty": 0, "logprobs": None, "echo": False},
    "plain text asked for": {"response_format": {"type": "text"}, "tools": [], "tool_choice": "none"},
    "token ids asked for": {"return_token_ids": True},
}
MUST_NOT = {
    "several answers": ({"n": 2}, "n"),
    "the best of several": ({"best_of": 2}, "best_of"),
    "log probabilities": ({"logprobs": 3}, "logprobs"),
    "log probabilities of the token alone": ({"logprobs": 0}, "logprobs"),
    "echo": ({"echo": True}, "echo"),
    "presence penalty": ({"presence_penalty": 0.1}, "presence_penalty"),
    "frequency penalty": ({"frequency_penalty": -1}, "frequency_penalty"),
    "a grammar": ({"structured_outputs": {"regex": "a*"}}, "structured_outputs"),
    "JSON": ({"response_format": {"type": "json_object"}}, "response_format"),
    "tools": ({"tools": [{"type": "function"}]}, "tools"),
    "bad words": ({"bad_words": ["x"]}, "bad_words"),
    "a prompt cut by the engine": ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
    "special tokens not spaced": ({"spaces_between_special_tokens": False}, "spaces_between_special_tokens"),
    "hidden reasoning": ({"include_reasoning": False}, "include_reasoning"),
    "a field of a later vLLM": ({"next_year": 1}, "other field"),
    "sampled with stop strings": ({"temperature": 0.7, "stop": ["end"]}, "stop"),
    "sampled with a seed": ({"temperature": 0.7, "seed": 5}, "seed"),
    "a seed and the model's temperature": ({"temperature": None, "seed": 5}, "seed"),
    "a limit in words": ({"max_tokens": "30"}, "limit"),
    "stop of a type that is not known": ({"stop": [1]}, "limit"),
    "several prompts": ({"prompt": ["a", "b"]}, "a list of prompts"),
    "true is not 1": ({"top_logprobs": False}, "top_logprobs"),
}


@pytest.mark.parametrize("more", MAY.values(), ids=MAY.keys())
def test_may_go_on_elsewhere(more: dict[str, Any]) -> None:
    assert resume.why_not(ask({**GREEDY, **more})) is None


@pytest.mark.parametrize(("more", "why"), MUST_NOT.values(), ids=MUST_NOT.keys())
def test_must_not_go_on_elsewhere(more: dict[str, Any], why: str) -> None:
    found = resume.why_not(ask({**GREEDY, **more}))
    assert found == why
    assert found in resume.WHY_NOT


def test_a_picture_in_a_chat_is_not_in_its_token_ids() -> None:
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
    body = {"model": "chat", "messages": [{"role": "user", "content": content}], "temperature": 0}
    assert resume.why_not(ask(body, CHAT)) == "media"


def test_a_grammar_s_prompt_text_does_not_count_as_one() -> None:
    chat = {"model": "chat", "messages": [{"role": "user", "content": "response_format"}], "chat_template_kwargs": {}}
    assert resume.why_not(ask(chat, CHAT)) is None


@pytest.mark.parametrize(
    ("path", "given", "limits"),
    [
        (COMPLETIONS, {"max_tokens": 30}, {"max_tokens": 23}),
        (COMPLETIONS, {}, {"max_tokens": 9}),
        (CHAT, {"max_tokens": 30}, {"max_tokens": 23, "max_completion_tokens": 23}),
        (CHAT, {"max_tokens": 30, "max_completion_tokens": 20}, {"max_tokens": 13, "max_completion_tokens": 13}),
        (CHAT, {}, {}),
        (CHAT, {"max_tokens": 30, "min_tokens": 5}, {"max_tokens": 23, "max_completion_tokens": 23, "min_tokens": 0}),
    ],
)
def test_what_is_out_counts_for_the_limits(path: str, given: dict[str, int], limits: dict[str, int]) -> None:
    c = resume.Continuation(prompt=(1, 2, 3), tokens=7, chars=7)
    one = ask({"model": "chat", "prompt": "a", "messages": [], **given}, path)
    body = resume.decode_body(one, {"kv_transfer_params": {"remote_host": "h"}}, c)
    kept = {k: v for k, v in body.items() if k not in ("kv_transfer_params", "prompt")}
    assert kept == limits
    kv = body["kv_transfer_params"]
    assert kv == ({"remote_host": "h"} if path == COMPLETIONS else {"remote_host": "h", "prompt_token_ids": [1, 2, 3]})
    assert body.get("prompt") == ([1, 2, 3] if path == COMPLETIONS else None)


class Told:
    """A client behind an `Answer`, and engines that die."""

    def __init__(self, body: dict[str, Any], path: str):
        self.ask = ask(body, path)
        self.answer, self.out, self.cuts = Answer(self.ask), [], 0  # type: ignore[var-annotated]

    def hear(self, body: dict[str, Any], merge: int, most: int | None = None) -> None:
        for i, one in enumerate(events({**body, "return_token_ids": True}, self.ask.path, merge=merge)):
            if i == most:
                return
            if (shown := self.answer.read(one.removesuffix(sse.END))) is not None:
                self.out.append(shown)

    def go_on(self, merge: int, most: int | None = None) -> str | None:
        c = resume.go_on(self.ask, self.answer.sent)
        if isinstance(c, str):
            return c
        self.answer.go_on(c)
        self.hear(resume.decode_body(self.ask, rules.decode_copy(self.ask, 0), c), merge, most)
        return None

    @property
    def seen(self) -> dict[str, Any]:
        assert self.out.count(sse.DONE) == 1
        return seen([json.loads(e.removeprefix(sse.DATA)) for e in self.out if e != sse.DONE])


def alone(body: dict[str, Any], path: str) -> dict[str, Any]:
    one = Told(body, path)
    one.hear(rules.decode_copy(one.ask, 0), 1)
    return one.seen


@settings(max_examples=300, deadline=None)
@given(
    prompt=st.lists(st.integers(6, 10), min_size=1, max_size=6),
    limit=st.integers(1, 40),
    stop=st.sampled_from([[], ["the"], ["a", "xy.ü€"], ["€ü", "b a"], "qq", ["never in it"]]),
    keeps=st.booleans(),
    is_chat=st.booleans(),
    shows=st.booleans(),
    usage=st.booleans(),
    deaths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 4)), min_size=1, max_size=3),
)
def test_a_greedy_answer_out_of_several_engines_is_that_of_one(
    prompt: list[int],
    limit: int,
    stop: Any,
    keeps: bool,
    is_chat: bool,
    shows: bool,
    usage: bool,
    deaths: list[tuple[int, int]],
) -> None:
    """Wherever they die: within characters, within stop strings, after the last token, once and again."""
    path, body = (CHAT if is_chat else COMPLETIONS), {**GREEDY, "max_tokens": limit, "stop": stop, "prompt": prompt}
    body |= {"include_stop_str_in_output": keeps, "return_token_ids": shows}
    body |= {"messages": prompt} if is_chat else {}
    body |= {"stream_options": {"include_usage": True}} if usage else {}
    one = Told(body, path)
    (first, merge), *more = deaths
    one.hear(rules.decode_copy(one.ask, 0), merge, first)
    for most, merge in [*more, (None, 1)]:
        if one.answer.is_done:
            break
        if one.answer.sent.finish is not None:
            one.out += one.answer.closing()
            break
        assert one.go_on(merge, most) is None
    assert one.seen == alone(body, path)


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_sampled_answer_keeps_every_token_or_does_not_go_on(cut: int) -> None:
    """To draw the second half of a character again, because the first came alone, would change how often it comes."""
    body = {**SAMPLED, "prompt": [7]}
    drawn = [token for token, _, _ in steps(body)]
    one = Told(body, COMPLETIONS)
    one.hear(rules.decode_copy(one.ask, 0), 1, cut)
    c = resume.go_on(one.ask, one.answer.sent)
    if drawn[cut - 1] == FIRST_HALF:
        assert c == resume.IN_A_CHUNK
    else:
        assert isinstance(c, resume.Continuation)
        assert list(c.prompt) == [7, *drawn[:cut]]


def test_some_cut_is_within_a_character() -> None:
    assert FIRST_HALF in [token for token, _, _ in steps({**SAMPLED, "prompt": [7]})][:29]


def test_a_sampled_answer_with_several_tokens_in_its_last_chunk_does_not_go_on() -> None:
    one = Told({**SAMPLED, "prompt": [7]}, COMPLETIONS)
    one.hear(rules.decode_copy(one.ask, 0), 3, 2)
    assert resume.go_on(one.ask, one.answer.sent) == resume.IN_A_CHUNK


def test_an_engine_that_tells_no_ids_cannot_be_followed() -> None:
    one = Told(GREEDY, COMPLETIONS)
    one.answer.read(b'data: {"id":"x","choices":[{"index":0,"text":"hello"}]}')
    assert resume.go_on(one.ask, one.answer.sent) == resume.NO_IDS
    assert one.answer.tokens == 1


@pytest.mark.parametrize("delta", [{"reasoning": "x"}, {"reasoning_content": "x"}, {"tool_calls": ["x"]}, {}])
def test_text_that_went_through_a_parser_does_not_go_on(delta: dict[str, Any]) -> None:
    """Nothing at all in a delta: a parser keeps the token for itself, and the client would not hear of it otherwise."""
    one = Told({**GREEDY, "messages": []}, CHAT)
    choice = {"index": 0, "delta": delta, "token_ids": [4], "finish_reason": None}
    event = {"id": "x", "prompt_token_ids": [1], "choices": [choice]}
    assert (one.answer.read(sse.DATA + json.dumps(event).encode()) is None) == (not delta)
    assert resume.go_on(one.ask, one.answer.sent) == resume.PARSED


def cut_with_overlap() -> tuple[Told, resume.Continuation]:
    """A greedy answer whose last tokens come again: four tokens in its last chunk."""
    one = Told({**GREEDY, "prompt": [7]}, COMPLETIONS)
    one.hear(rules.decode_copy(one.ask, 0), 4, 2)
    c = resume.go_on(one.ask, one.answer.sent)
    assert isinstance(c, resume.Continuation)
    assert c.tokens < len(one.answer.sent.tokens)
    one.answer.go_on(c)
    return one, c


def test_other_tokens_than_the_client_has_are_an_error() -> None:
    one, c = cut_with_overlap()
    wrong = (one.answer.sent.tokens[c.tokens] + 1) % 10
    choice = {"index": 0, "text": "a", "token_ids": [wrong], "finish_reason": None, "prompt_token_ids": list(c.prompt)}
    with pytest.raises(resume.DivergedError, match="other tokens"):
        one.answer.read(sse.DATA + json.dumps({"choices": [choice]}).encode())


def test_an_engine_that_read_another_prompt_is_found_out() -> None:
    one, c = cut_with_overlap()
    choice = {"index": 0, "text": "a", "token_ids": [1], "prompt_token_ids": [*c.prompt[:-1], c.prompt[-1] + 1]}
    with pytest.raises(resume.DivergedError, match="as its prompt"):
        one.answer.read(sse.DATA + json.dumps({"choices": [choice]}).encode())


def test_an_answer_that_ends_before_what_the_client_has_is_an_error() -> None:
    one, _ = cut_with_overlap()
    choice = {"index": 0, "text": "", "token_ids": [], "finish_reason": "stop"}
    with pytest.raises(resume.DivergedError, match="ended"):
        one.answer.read(sse.DATA + json.dumps({"choices": [choice]}).encode())


@pytest.mark.parametrize("reader", [Answer(ask(GREEDY)), sse.Reader(wants_usage=False)], ids=["resume", "plain"])
def test_an_aborted_answer_is_no_answer(reader: Answer | sse.Reader) -> None:
    with pytest.raises(sse.StreamError, match="aborted"):
        reader.read(b'data: {"choices":[{"index":0,"text":"","finish_reason":"abort"}]}')


def test_text_about_fields_is_text() -> None:
    one = Told(GREEDY, COMPLETIONS)
    text = '"token_ids":[1],"finish_reason":"abort","error"'
    choice = {"index": 0, "text": text, "token_ids": [1], "prompt_token_ids": [2], "finish_reason": None}
    shown = one.answer.read(sse.DATA + json.dumps({"choices": [choice]}).encode())
    assert shown is not None
    assert json.loads(shown.removeprefix(sse.DATA))["choices"][0]["text"] == text


def attempts() -> Attempts:
    return Attempts(most=3, patience_s=60)


def test_before_the_first_token_two_engines_may_fail_and_three_routes_be_tried() -> None:
    one = attempts()
    new: dict[str, Any] = {"has_begun": False, "came_further": False, "now_s": 0.0}
    assert [one.failed(had_request=False, **new) for _ in range(3)] == [True, True, False]
    one = attempts()
    assert [one.failed(had_request=True, **new) for _ in range(2)] == [True, False]


def test_a_stream_that_has_begun_waits_for_its_patience_and_visits_two_more() -> None:
    one = attempts()
    assert one.failed(had_request=True, has_begun=True, came_further=True, now_s=100)
    still: dict[str, Any] = {"has_begun": True, "came_further": False}
    assert all(one.failed(had_request=False, now_s=100 + i, **still) for i in range(59))
    assert not one.failed(had_request=False, now_s=161, **still)
    one = attempts()
    assert one.failed(had_request=True, has_begun=True, came_further=True, now_s=100)
    assert [one.failed(had_request=True, now_s=101, **still) for _ in range(2)] == [True, False]


def test_a_stream_that_has_but_a_role_waits_no_longer_than_others() -> None:
    one = attempts()
    new: dict[str, Any] = {"had_request": False, "has_begun": True, "came_further": False}
    assert not one.may_wait(0)
    assert [one.failed(now_s=t, **new) for t in (0, 59, 60)] == [True, True, False]
    assert [one.may_wait(t) for t in (59, 60)] == [True, False]


def test_a_stream_that_kills_engine_after_engine_is_given_up() -> None:
    one = attempts()
    seen = [one.failed(had_request=True, has_begun=True, came_further=True, now_s=i) for i in range(MAX_RESUMES + 1)]
    assert seen == [True] * MAX_RESUMES + [False]


def test_the_fake_reads_token_ids_where_vllm_does() -> None:
    assert prompt_of({"prompt": [1, 2]}) == prompt_of({"kv_transfer_params": {"prompt_token_ids": [1, 2]}}) == [1, 2]
