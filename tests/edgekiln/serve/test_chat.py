"""Chat completions through OpenAI's own client."""

from itertools import pairwise

import openai
import pytest

from support.serving import HELLO, RunningServer

TINY = {"model": "tiny", "messages": HELLO}
EXTRA = {"extra_body": {"ignore_eos": True}}


def text_of(client: openai.OpenAI, **options) -> str:
    return client.chat.completions.create(**{**TINY, "max_tokens": 12, **EXTRA, **options}).choices[0].message.content


def test_an_answer(client, server):
    answer = client.chat.completions.create(**TINY, max_tokens=7, **EXTRA)
    (choice,) = answer.choices
    assert (answer.object, answer.model, choice.index, choice.message.role) == (
        "chat.completion",
        "tiny",
        0,
        "assistant",
    )
    assert choice.finish_reason == "length"
    assert (answer.usage.completion_tokens, answer.usage.prompt_tokens) == (7, 8)
    assert answer.usage.total_tokens == 15
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


def test_the_answer_is_that_of_the_engine(client, server):
    engine = server.server.engines._entries["tiny"].loaded.engine
    alone = "".join(token.text for token in engine.chat(HELLO, max_tokens=40, ignore_eos=True))
    assert text_of(client, max_tokens=40) == alone


def test_a_stream_gives_the_same(client):
    chunks = list(
        client.chat.completions.create(
            **TINY, max_tokens=30, **EXTRA, stream=True, stream_options={"include_usage": True}
        )
    )
    *rest, last = chunks
    assert rest[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in rest) == text_of(client, max_tokens=30)
    assert [c.choices[0].finish_reason for c in rest][-1] == "length"
    assert all(c.choices[0].finish_reason is None for c in rest[:-1])
    assert last.choices == []
    assert last.usage.completion_tokens == 30
    assert len({c.id for c in chunks}) == 1


def test_a_stream_without_usage_has_none(client):
    chunks = list(client.chat.completions.create(**TINY, max_tokens=3, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_several_choices(client):
    options = {"n": 3, "temperature": 1.5, "seed": 5, "max_tokens": 20, **EXTRA}
    answer = client.chat.completions.create(**TINY, **options)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert answer.usage.completion_tokens == 60
    assert answer.usage.prompt_tokens == 8
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**TINY, **options, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_a_seed_gives_the_same_answer(client):
    drawn = {text_of(client, temperature=2.0, seed=7) for _ in range(3)}
    assert len(drawn) == 1
    assert text_of(client, temperature=2.0, seed=8) not in drawn
    assert text_of(client, temperature=2.0, seed=-(2**63)) == text_of(client, temperature=2.0, seed=2**63)
    assert len({text_of(client, temperature=2.0) for _ in range(3)}) == 3


def test_stop_strings_end_an_answer(client):
    whole = text_of(client, max_tokens=60)
    stop = whole[20:22]
    for given in (stop, [stop, "never"]):
        answer = client.chat.completions.create(**TINY, max_tokens=60, stop=given, **EXTRA)
        assert answer.choices[0].message.content == whole[: whole.index(stop)]
        assert answer.choices[0].finish_reason == "stop"


def test_log_probabilities(client):
    answer = client.chat.completions.create(**TINY, max_tokens=5, logprobs=True, top_logprobs=3, **EXTRA)
    content = answer.choices[0].logprobs.content
    assert len(content) == 5
    for entry in content:
        assert entry.bytes == list(entry.token.encode()) or "\ufffd" in entry.token
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob)  # greedy
        assert all(a.logprob >= b.logprob for a, b in pairwise(entry.top_logprobs))
    streamed = []
    for chunk in client.chat.completions.create(
        **TINY, max_tokens=5, logprobs=True, top_logprobs=3, stream=True, **EXTRA
    ):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert [entry.token for entry in streamed] == [entry.token for entry in content]


def test_without_top_logprobs_there_are_none(client):
    answer = client.chat.completions.create(**TINY, max_tokens=2, logprobs=True, **EXTRA)
    assert answer.choices[0].logprobs.content[0].top_logprobs == []
    assert client.chat.completions.create(**TINY, max_tokens=2).choices[0].logprobs is None


def test_penalties_and_biases_change_the_answer(client):
    plain = text_of(client)
    for options in (
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"extra_body": {"repetition_penalty": 3.0, "ignore_eos": True}},
        {"logit_bias": {"5": 100}},
    ):
        assert text_of(client, max_tokens=200, **options) != text_of(client, max_tokens=200), options
    assert text_of(client, temperature=2.0, seed=1, extra_body={"top_k": 1, "ignore_eos": True}) == plain
    assert text_of(client, temperature=2.0, seed=1, top_p=0.0) == plain
    assert text_of(client, temperature=2.0, seed=1, extra_body={"min_p": 1.0, "ignore_eos": True}) == plain


def test_the_rest_of_the_context_is_the_default_length(client):
    answer = client.chat.completions.create(**TINY, **EXTRA)
    assert answer.usage.total_tokens == 4096
    assert answer.choices[0].finish_reason == "length"


def test_parts_and_roles(client):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "d", "name": "me"},
    ]
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    assert text_of(client, messages=messages) == text_of(client, messages=plain)


def test_harmless_fields_are_taken(server: RunningServer):
    labels = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "seed": None, "n": None}
    assert server.post("/v1/chat/completions", {**TINY, "max_tokens": 1, **labels}).status_code == 200


def test_structured_answers(server: RunningServer):
    def answer(**options) -> str:
        body = {**TINY, "max_tokens": 200, "temperature": 1.0, "seed": 1, **options}
        choice = server.post("/v1/chat/completions", body).json()["choices"][0]
        assert choice["finish_reason"] == "stop"
        return choice["message"]["content"]

    assert answer(regex="(yes|no)") in ("yes", "no")
    assert answer(grammar='start: "a" "b"') == "ab"
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    import json

    assert json.loads(answer(response_format=form))["a"] in ("x", "y")
