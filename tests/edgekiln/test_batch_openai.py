"""Lines of OpenAI's batch API, and their answers."""

import json
from pathlib import Path
from typing import Any

import pytest

import edgekiln
from edgekiln.batch_openai import CHAT_URL, TEXT_URL
from edgekiln.batch_requests import RequestFile

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def engine(tiny_engine: Path) -> edgekiln.Engine:
    return edgekiln.Engine.open(tiny_engine)


def line(custom_id: str, url: str = CHAT_URL, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "any", **body}}


def answers(engine: edgekiln.Engine, directory: Path, *lines: object, **options: Any) -> list[dict[str, Any]]:
    source, out = directory / "in.jsonl", directory / "out.jsonl"
    source.write_text("".join(json.dumps(each) + "\n" for each in lines))
    out.unlink(missing_ok=True)
    engine.generate_file(source, out, **options)
    return [json.loads(each) for each in out.read_text().splitlines()]


def text(tokens: Any) -> str:
    return "".join(token.text for token in tokens)


def test_answers(engine: edgekiln.Engine, tmp_path: Path) -> None:
    developer = [{"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "kind"}]}]
    chat, completion, own = answers(
        engine,
        tmp_path,
        line("a", messages=developer + MESSAGES, max_completion_tokens=4, user="me", stream=False, n=1),
        line("b", TEXT_URL, prompt="hello", max_tokens=5, temperature=1.5, seed=3, stop=None),
        {"prompt": "hello", "id": "c"},
        max_tokens=6,
    )
    assert chat.keys() == {"id", "custom_id", "response", "error"}
    assert (chat["custom_id"], chat["error"], chat["response"]["status_code"]) == ("a", None, 200)
    body = chat["response"]["body"]
    messages = [{"role": "system", "content": "be\nkind"}, *MESSAGES]
    expected = text(engine.chat(messages, max_tokens=4))
    message = {"role": "assistant", "content": expected, "refusal": None}
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}]
    assert (body["object"], body["model"]) == ("chat.completion", engine.path.name)
    assert body["usage"]["completion_tokens"] == 4
    body = completion["response"]["body"]
    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"] == text(engine.generate("hello", max_tokens=5, temperature=1.5, seed=3))
    assert (own["index"], own["id"], own["text"]) == (2, "c", text(engine.generate("hello", max_tokens=6)))


def test_response_formats(engine: edgekiln.Engine, tmp_path: Path) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [7]}}}
    formats = [schema, {"type": "json_object"}, {"type": "text"}]
    lines = [line(str(n), messages=MESSAGES, response_format=each, max_tokens=9) for n, each in enumerate(formats)]
    made = [each["response"]["body"]["choices"][0] for each in answers(engine, tmp_path, *lines)]
    assert (made[0]["message"]["content"], made[0]["finish_reason"]) == ("7", "stop")
    assert made[1]["message"]["content"].startswith("{")
    assert made[2]["message"]["content"] == text(engine.chat(MESSAGES, max_tokens=9))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"url": "/v1/embeddings"}, "POST /v1/embeddings cannot be answered"),
        ({"method": "GET"}, "GET /v1/chat/completions cannot be answered"),
        ({"body": [1]}, "body must be an object, got [1]"),
        ({"priority": 1}, "a line with custom_id and body has no field 'priority'"),
        ({"body": {}}, "a request has either a prompt or messages"),
        ({"body": {"messages": MESSAGES, "n": 2}}, "n of 2 cannot be answered in a batch: leave it out"),
        ({"body": {"messages": MESSAGES, "stream": True}}, "stream of True cannot be answered in a batch"),
        ({"body": {"messages": MESSAGES, "tools": []}}, "send the request to `edgekiln serve`"),
        ({"body": {"messages": MESSAGES, "prompt": "x"}}, "there is no field 'prompt' in a body for /v1/chat/compl"),
        ({"body": {"messages": MESSAGES, "temprature": 1}}, "there is no field 'temprature'"),
        ({"body": {"messages": MESSAGES, "max_tokens": "5"}}, "max_tokens must be an integer, got '5'"),
        ({"body": {"messages": MESSAGES, "max_tokens": 5, "max_completion_tokens": 6}}, "two values of max_tokens"),
        ({"body": {"messages": MESSAGES, "logit_bias": {"x": 1}}}, "the keys of logit_bias are not token ids"),
        ({"body": {"messages": MESSAGES, "response_format": {"type": "xml"}}}, "response_format must be"),
        ({"body": {"messages": "hi"}}, "messages must be a list"),
        ({"body": {"messages": [{"role": "user"}]}}, "a message must have a role, and text as content"),
        ({"body": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}}, "engines take text only"),
        ({"body": {"messages": [{"role": "assistant", "tool_calls": [1]}]}}, "tool_calls must have functions"),
    ],
)
def test_errors(engine: edgekiln.Engine, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    (made,) = answers(engine, tmp_path, {**line("a"), **changed})
    assert (made["custom_id"], made["error"], made["response"]["status_code"]) == ("a", None, 400)
    error = made["response"]["body"]["error"]
    assert message in error.pop("message")
    assert error == {"type": "invalid_request_error", "param": None, "code": None}


def test_a_custom_id_that_is_no_text(engine: edgekiln.Engine, tmp_path: Path) -> None:
    (made,) = answers(engine, tmp_path, {"custom_id": 5, "body": {}})
    assert made["error"] == "line 1 has a custom_id that is no text, got 5"


def test_calls_in_messages_have_objects_as_arguments(tmp_path: Path) -> None:
    function = {"name": "now", "arguments": '{"a": 1}'}
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    (tmp_path / "a").write_text(json.dumps(line("a", messages=[*MESSAGES, call])))
    (request,) = RequestFile.open(tmp_path / "a").requests()
    assert isinstance(request, dict)
    assert request["messages"][1]["content"] == ""
    assert request["messages"][1]["tool_calls"][0]["function"] == {"name": "now", "arguments": {"a": 1}}


def test_going_on(engine: edgekiln.Engine, tmp_path: Path) -> None:
    lines = [line("a", messages=MESSAGES), line("b", messages=MESSAGES, n=2), {"prompt": "x"}, line("c", TEXT_URL)]
    first = answers(engine, tmp_path, *lines, max_tokens=3)
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    whole = out.read_bytes()
    counts = engine.generate_file(source, out, max_tokens=3)
    assert (counts.total, counts.kept, counts.errors, counts.cut) == (4, 4, 2, 2)
    ends = [0, *(place + 1 for place, byte in enumerate(whole) if byte == ord("\n"))]
    for cut in sorted({*ends, *(end + 5 for end in ends[:-1]), *(end + 40 for end in ends[:-1])}):
        out.write_bytes(whole[:cut])
        assert engine.generate_file(source, out, max_tokens=3).kept == whole[:cut].count(b"\n")
        again = [json.loads(each) for each in out.read_text().splitlines()]
        for each in (*first, *again):
            each.get("response", {}).get("body", {}).pop("created", None)
        assert again == first
    with pytest.raises(edgekiln.RequestError, match=r"line 1 of .* is for another request, other options"):
        engine.generate_file(source, out, max_tokens=4)
    source.write_text(json.dumps(line("other", messages=MESSAGES)))
    with pytest.raises(edgekiln.RequestError, match=r"line 1 of .* is for another request, other options"):
        engine.generate_file(source, out, max_tokens=3)


def test_prompts_stay_prompts_with_chat(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(json.dumps(line("a", TEXT_URL, prompt="x")))
    (request,) = RequestFile.open(tmp_path / "a").requests(chat=True)
    assert request == {"id": "a", "prompt": "x"}
