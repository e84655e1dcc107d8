"""Requests that are refused: the status, and the field's name in `param`."""

from typing import Any

import openai
import pytest

from support.serving import HELLO, RunningServer

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TOOL = {"type": "function", "function": {"name": "f"}}


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "a"}, fields]}


# Path, fields beside those that are needed, and `param`.
BAD = [
    (CHAT, {"temperature": -1}, "temperature"),
    (CHAT, {"temperature": "1"}, "temperature"),
    (CHAT, {"temperature": True}, "temperature"),
    (CHAT, {"top_p": 1.1}, "top_p"),
    (CHAT, {"top_k": -1}, "top_k"),
    (CHAT, {"top_k": 1.5}, "top_k"),
    (CHAT, {"min_p": 2}, "min_p"),
    (CHAT, {"repetition_penalty": 0}, "repetition_penalty"),
    (CHAT, {"presence_penalty": 3}, "presence_penalty"),
    (CHAT, {"frequency_penalty": -3}, "frequency_penalty"),
    (CHAT, {"seed": 2**64}, "seed"),
    (CHAT, {"logit_bias": {"a": 1}}, "logit_bias"),
    (CHAT, {"logit_bias": {"99999": 1}}, "logit_bias"),
    (CHAT, {"logit_bias": {"1": 101}}, "logit_bias.1"),
    (CHAT, {"n": 0}, "n"),
    (CHAT, {"n": 100}, "n"),
    (CHAT, {"stop": ""}, "stop[0]"),
    (CHAT, {"stop": ["a"] * 17}, "stop"),
    (CHAT, {"max_tokens": 0}, "max_tokens"),
    (CHAT, {"max_completion_tokens": "1"}, "max_completion_tokens"),
    (CHAT, {"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
    (CHAT, {"top_logprobs": 2}, "top_logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT, {"stream": "yes"}, "stream"),
    (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
    (CHAT, {"stream": True, "stream_options": {"what": 1}}, "stream_options.what"),
    (CHAT, {"response_format": "json"}, "response_format"),
    (CHAT, {"response_format": {"type": "xml"}}, "response_format.type"),
    (CHAT, {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        CHAT,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nothing"}}}},
        "response_format.json_schema.schema",
    ),
    (CHAT, {"regex": "("}, "regex"),
    (CHAT, {"grammar": "start: ("}, "grammar"),
    (CHAT, {"regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": "hello"}, "messages"),
    (CHAT, {"messages": ["hello"]}, "messages[0]"),
    (CHAT, message(role="robot", content="a"), "messages[1].role"),
    (CHAT, message(role="user"), "messages[1].content"),
    (CHAT, message(role="user", content=1), "messages[1].content"),
    (CHAT, message(role="user", content=[{"type": "image_url"}]), "messages[1].content[0].type"),
    (CHAT, message(role="user", content=[{"type": "text"}]), "messages[1].content[0].text"),
    (CHAT, message(role="user", content="a", audio={"id": 1}), "messages[1].audio"),
    (
        CHAT,
        message(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": "{"}}]),
        "messages[1].tool_calls[0].function.arguments",
    ),
    (CHAT, {"chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs"),
    (CHAT, {"reasoning_effort": "low"}, "reasoning_effort"),
    (CHAT, {"tools": [1]}, "tools[0]"),
    (CHAT, {"tools": [{"type": "web_search"}]}, "tools[0].type"),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    (CHAT, {"tools": [TOOL, TOOL]}, "tools[1].function.name"),
    (CHAT, {"tool_choice": "required"}, "tool_choice"),
    (CHAT, {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    (CHAT, {"store": True}, "store"),
    (CHAT, {"service_tier": "flex"}, "service_tier"),
    (CHAT, {"modalities": ["text", "audio"]}, "modalities"),
    (CHAT, {"audio": {}}, "audio"),
    (CHAT, {"prediction": {"type": "content"}}, "prediction"),
    (CHAT, {"functions": []}, "functions"),
    (CHAT, {"web_search_options": {}}, "web_search_options"),
    (CHAT, {"unheard": 1}, "unheard"),
    (CHAT, {"messages": None}, "messages"),
    (TEXT, {"prompt": 5}, "prompt"),
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": ""}, "prompt"),
    (TEXT, {"prompt": ["a", 5]}, "prompt[1]"),
    (TEXT, {"prompt": [1, -1]}, "prompt"),
    (TEXT, {"prompt": [10**9]}, "prompt"),
    (TEXT, {"prompt": "a" * 5000}, "prompt"),
    (TEXT, {"prompt": ["a"] * 20}, "prompt"),
    (TEXT, {"suffix": "b"}, "suffix"),
    (TEXT, {"best_of": 2}, "best_of"),
    (TEXT, {"logprobs": 21}, "logprobs"),
    (TEXT, {"echo": True, "logprobs": 1}, "logprobs"),
    (RESPONSES, {"input": 1}, "input"),
    (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    (RESPONSES, {"input": [{"type": "function_call_output", "output": "a"}]}, "input[0].call_id"),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    (RESPONSES, {"previous_response_id": "x"}, "previous_response_id"),
    (RESPONSES, {"background": True}, "background"),
    (RESPONSES, {"store": True}, "store"),
    (RESPONSES, {"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    (RESPONSES, {"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    (RESPONSES, {"max_output_tokens": 0}, "max_output_tokens"),
    ("/tokenize", {"content": 5}, "content"),
    ("/tokenize", {}, "content"),
    ("/detokenize", {"tokens": [10**6]}, "tokens"),
    ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
]
NEEDED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO, "max_tokens": 1},
    TEXT: {"prompt": "a", "max_tokens": 1},
    RESPONSES: {"input": "a", "max_output_tokens": 1},
}


@pytest.mark.parametrize(("path", "fields", "param"), BAD, ids=lambda value: str(value)[:50])
def test_a_wrong_field_is_named(server: RunningServer, path: str, fields: dict[str, Any], param: str) -> None:
    body = {**NEEDED.get(path, {}), **fields}
    if fields.get("max_completion_tokens") == "1":
        del body["max_tokens"]
    response = server.post(path, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert error["code"]
    assert server.busy == 0


def test_a_wrong_field_in_a_stream_is_an_error_before_it(server: RunningServer) -> None:
    response = server.post(CHAT, {"messages": HELLO, "stream": True, "n": 0})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"a"',
        b"\xff\xfe",
        b'{"messages": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": 1e999, "messages": []}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"{} {}",
    ],
)
def test_bodies_that_are_no_json_object(server: RunningServer, body: bytes) -> None:
    for path in (CHAT, TEXT, RESPONSES, "/tokenize", "/v1/embeddings"):
        response = server.http.post(path, content=body, headers={"content-type": "application/json"})
        assert response.status_code == 400, response.text
        assert response.json()["error"]["type"] == "invalid_request_error"


def test_other_types_of_bodies(server: RunningServer) -> None:
    for headers in ({"content-type": "text/plain"}, {}):
        response = server.http.post(CHAT, content=b"{}", headers=headers)
        assert response.status_code == 415
        assert response.json()["error"]["code"] == "unsupported_media_type"


def test_unknown_models(server: RunningServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "tiny" in caught.value.message
    assert server.http.get("/v1/models/gpt-4").status_code == 404


def test_unknown_routes_and_methods(server: RunningServer) -> None:
    response = server.http.get("/v1/nothing")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    response = server.http.get(CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/models/../../x", "/page/chat.html", "/%00"):
        assert server.http.get(path).status_code == 404


def test_embeddings_say_why(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="embedding"):
        client.embeddings.create(model="tiny", input="a")


def test_prompts_that_are_too_long(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"4096") as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a" * 4100}])
    assert caught.value.param == "messages"
