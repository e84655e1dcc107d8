"""Text completions through OpenAI's own client."""

import openai
import pytest

from support.serving import RunningServer

EXTRA = {"extra_body": {"ignore_eos": True}}


def texts(client: openai.OpenAI, prompt, **options) -> list[str]:
    answer = client.completions.create(model="tiny", prompt=prompt, **{"max_tokens": 12, **EXTRA, **options})
    return [choice.text for choice in answer.choices]


def test_a_text(client):
    answer = client.completions.create(model="tiny", prompt="Once", max_tokens=5, **EXTRA)
    assert answer.object == "text_completion"
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 5)


def test_prompts_of_all_forms(client, server: RunningServer):
    ids = [server.post("/tokenize", {"content": text}).json()["tokens"] for text in ("Once", "The")]
    alone = texts(client, "Once") + texts(client, "The")
    assert texts(client, ["Once", "The"]) == alone
    assert texts(client, ids) == alone
    assert texts(client, ids[0]) == alone[:1]
    assert texts(client, ["Once", "The"], n=2) == [alone[0], alone[0], alone[1], alone[1]]


def test_echo(client):
    (plain,) = texts(client, "Once")
    assert texts(client, "Once", echo=True) == ["Once" + plain]
    chunks = client.completions.create(model="tiny", prompt="Once", max_tokens=12, echo=True, stream=True, **EXTRA)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Once" + plain


def test_a_stream_gives_the_same(client):
    whole = texts(client, ["Once", "The"], max_tokens=30)
    streamed = ["", ""]
    for chunk in client.completions.create(model="tiny", prompt=["Once", "The"], max_tokens=30, stream=True, **EXTRA):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == whole


def test_usage_of_a_stream(client):
    *rest, last = client.completions.create(
        model="tiny", prompt="Once", max_tokens=6, stream=True, stream_options={"include_usage": True}, **EXTRA
    )
    assert (last.choices, last.usage.completion_tokens) == ([], 6)
    assert rest[-1].choices[0].finish_reason == "length"


def test_log_probabilities(client):
    answer = client.completions.create(model="tiny", prompt="Once", max_tokens=6, logprobs=2, **EXTRA)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 6
    assert all(len(top) <= 2 for top in logprobs.top_logprobs)
    assert logprobs.text_offset == [sum(map(len, logprobs.tokens[:i])) for i in range(6)]
    assert logprobs.token_logprobs[0] == pytest.approx(max(logprobs.top_logprobs[0].values()))
    zero = client.completions.create(model="tiny", prompt="Once", max_tokens=2, logprobs=0).choices[0].logprobs
    assert zero.top_logprobs == [{}, {}]


def test_tokenize_and_detokenize(server: RunningServer):
    tokens = server.post("/tokenize", {"content": "Héllo"}).json()
    assert tokens["count"] == len(tokens["tokens"]) == 6
    assert server.post("/detokenize", {"tokens": tokens["tokens"]}).json() == {"content": "Héllo"}
    assert server.post("/tokenize", {"prompt": "Héllo"}).json() == tokens
    pieces = server.post("/tokenize", {"content": "ab", "with_pieces": True}).json()["tokens"]
    assert [piece["piece"] for piece in pieces] == ["a", "b"]
    assert server.post("/detokenize", {"tokens": []}).json() == {"content": ""}
    assert server.post("/tokenize", {"content": ""}).json()["tokens"] == []


def test_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == ("tiny", "edgekiln")
    assert model.created > 1.7e9
    assert client.models.retrieve("tiny") == model
