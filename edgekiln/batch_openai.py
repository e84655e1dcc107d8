"""Lines of OpenAI's batch API: the requests of such lines, and the lines of their answers.

A request is {"custom_id", "method": "POST", "url", "body"}, where the body is that of /v1/chat/completions or
/v1/completions.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from edgekiln.batch import BatchAnswer, usage
from edgekiln.errors import RequestError

CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"
ID_PREFIX = "batch_req_"
_KEYS = {"custom_id", "method", "url", "body"}
_FINISH_REASONS = {"eos": "stop"}

_SAME = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "logit_bias", "seed", "stop", "ignore_eos", "grammar", "regex"),
)
_LABELS = ("model", "user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "parallel_tool_calls")
# Fields with the only value that can be answered.
_ONLY = {"n": 1, "stream": False, "store": False, "best_of": 1, "echo": False, "suffix": "", "logprobs": False}
_SERVED = ("tools", "tool_choice", "top_logprobs")


class OpenAIRequest(dict[str, Any]):
    """A request for `Engine.generate_batch`, from a line of OpenAI's batch API.

    Attributes:
        url: of the line.
    """

    def __init__(self, values: Mapping[str, Any], url: str) -> None:
        super().__init__(values)
        self.url = url


def is_openai_line(value: Mapping[str, Any]) -> bool:
    """Whether the object of a line is a request of OpenAI's batch API."""
    return "custom_id" in value and "body" in value


def openai_request(value: Mapping[str, Any]) -> OpenAIRequest:
    """The request of a line.

    Raises:
        RequestError: it has something that cannot be answered.
    """
    if others := value.keys() - _KEYS:
        raise RequestError(f"a line with custom_id and body has no field {min(others)!r:.60}")
    url, body = value.get("url"), value["body"]
    if value.get("method", "POST") != "POST" or url not in (CHAT_URL, TEXT_URL):
        raise RequestError(f"{value.get('method')} {url} cannot be answered: POST to {CHAT_URL} or {TEXT_URL} can")
    if not isinstance(body, Mapping):
        raise RequestError(f"body must be an object, got {body!r:.60}")
    body = {name: each for name, each in body.items() if each is not None}
    fields = _CHAT if url == CHAT_URL else _TEXT
    request: dict[str, Any] = {"id": value["custom_id"]}
    for name, each in body.items():
        if name in _ONLY:
            if each != _ONLY[name]:
                raise RequestError(f"{name} of {each!r:.60} cannot be answered in a batch: leave it out")
        elif name in _SERVED:
            raise RequestError(f"{name} cannot be answered in a batch: send the request to `edgekiln serve`")
        elif name in fields:
            for ours, converted in fields[name](each).items():
                if request.setdefault(ours, converted) != converted:
                    raise RequestError(f"{name} and another field give two values of {ours}: give one")
        elif name not in _LABELS:
            raise RequestError(f"there is no field {name!r:.60} in a body for {url}")
    return OpenAIRequest(request, str(url))


def openai_line(answer: BatchAnswer, url: str | None, digest: str, model: str) -> dict[str, Any]:
    """The line of an answer, as in the output and error files of OpenAI's batch API.

    Args:
        answer: the answer.
        url: of the request; None where the line was wrong.
        digest: of the request.
        model: name of the engine.
    """
    status, body = (400, _error(answer.error)) if answer.error is not None else (200, _body(answer, url, digest, model))
    response = {"status_code": status, "request_id": f"req_{digest}", "body": body}
    return {"id": f"{ID_PREFIX}{digest}", "custom_id": answer.id, "response": response, "error": None}


def openai_outcome(answer: Mapping[str, Any]) -> tuple[bool, str | None, str | None]:
    """Of the line of an answer: whether it is an error, why the answer ended, and its text."""
    response = answer.get("response")
    body = response.get("body") if isinstance(response, dict) and response.get("status_code") == 200 else None
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return True, None, None
    message = choices[0].get("message")
    text = message.get("content") if isinstance(message, dict) else choices[0].get("text")
    return False, choices[0].get("finish_reason"), text


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


def _body(answer: BatchAnswer, url: str | None, digest: str, model: str) -> dict[str, Any]:
    chat = url == CHAT_URL
    reason = _FINISH_REASONS.get(str(answer.finish_reason), answer.finish_reason)
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
    if chat:
        choice["message"] = {"role": "assistant", "content": answer.text, "refusal": None}
    else:
        choice["text"] = answer.text
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{digest}",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage(answer),
    }


def _messages(messages: Any) -> dict[str, Any]:
    """Messages of chat templates: developer is the system, and parts are one text."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return {"messages": messages}  # generate_batch says what is wrong
    made = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            content = "\n".join(map(_part, content))
        role = "system" if message.get("role") == "developer" else message.get("role")
        if content is None and role == "assistant":
            content = ""
        if not isinstance(role, str) or not isinstance(content, str):
            raise RequestError(f"a message must have a role, and text as content, got {message!r:.60}")
        made.append({**message, "role": role, "content": content})
        if message.get("tool_calls"):
            made[-1]["tool_calls"] = _calls(message["tool_calls"])
    return {"messages": made}


def _calls(calls: Any) -> list[dict[str, Any]]:
    """Tool calls with objects as arguments, as chat templates have them, in place of JSON text."""
    try:
        return [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
            for call in calls
        ]
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise RequestError(f"tool_calls must have functions with JSON text as arguments, got {calls!r:.60}") from error


def _part(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise RequestError(f"engines take text only, got the part {part!r:.60}")
    return str(part["text"])


def _response_format(value: Any) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": {"type": "object"}}
    schema = value.get("json_schema") if kind == "json_schema" else None
    if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
        raise RequestError(f"response_format must be text, json_object or json_schema with a schema, got {value!r:.60}")
    return {"json_schema": schema["schema"]}


def _as(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: value}


_Fields = Mapping[str, Callable[[Any], dict[str, Any]]]
_COMMON: _Fields = {**{name: _as(name) for name in _SAME}, "response_format": _response_format}
_CHAT: _Fields = {
    **_COMMON,
    "messages": _messages,
    "max_completion_tokens": _as("max_tokens"),
    "chat_template_kwargs": _as("template_variables"),
}
_TEXT: _Fields = {**_COMMON, "prompt": _as("prompt")}
