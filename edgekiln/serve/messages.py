"""Messages of OpenAI's API as those of a chat template."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from edgekiln.serve.errors import ApiError, bad_request

_FIELDS = {
    "system": ("content", "name"),
    "developer": ("content", "name"),
    "user": ("content", "name"),
    "assistant": ("content", "name", "tool_calls", "reasoning_content", "reasoning"),
    "tool": ("content", "tool_call_id", "name"),
}
# Types of parts that are text, of chat and of /v1/responses.
_PARTS = ("text", "input_text", "output_text")
# Fields of answers that clients send back, where they say nothing.
_EMPTY_FIELDS = (
    "refusal",
    "audio",
    "function_call",
    "annotations",
    "name",
    "tool_calls",
    "reasoning_content",
    "content",
)


def chat_messages(messages: object) -> list[dict[str, Any]]:
    """The messages of a request, with content as one text and arguments of tool calls as objects.

    Raises:
        ApiError: a message has another form, or parts that are not text; `param` is its path.
    """
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages must be a list of at least one message", "messages", "invalid_value")
    return [chat_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def chat_message(message: object, path: str) -> dict[str, Any]:
    """One message, at `path` of the request; raises as `chat_messages` does."""
    if not isinstance(message, dict):
        raise _wrong(path, "must be an object with role and content", message)
    role = message.get("role")
    if not isinstance(role, str) or role not in _FIELDS:
        raise _wrong(f"{path}.role", f"must be one of {', '.join(_FIELDS)}", role)
    for name, value in message.items():
        if name != "role" and name not in _FIELDS[role] and not (name in _EMPTY_FIELDS and not value):
            raise bad_request(
                f"{path}.{name:.60} is not known for role {role}", f"{path}.{name:.60}", "unknown_parameter"
            )
    result: dict[str, Any] = {"role": "system" if role == "developer" else role}
    calls = message.get("tool_calls")
    result["content"] = text_of(message.get("content"), f"{path}.content", optional=role == "assistant")
    for name in ("name", "tool_call_id"):
        if (value := message.get(name)) is not None:
            result[name] = _text(value, f"{path}.{name}")
    if role == "assistant":
        if calls:
            result["tool_calls"] = _tool_calls(calls, f"{path}.tool_calls")
        if (reasoning := message.get("reasoning_content") or message.get("reasoning")) is not None:
            result["reasoning_content"] = _text(reasoning, f"{path}.reasoning_content")
    return result


def text_of(content: object, path: str, optional: bool = False, parts: tuple[str, ...] = _PARTS) -> str:
    """The text of a message's content; raises as `chat_messages` does.

    Args:
        content: a text, or parts, whose texts are joined by line breaks.
        path: of the content in the request.
        optional: it may be None.
        parts: types of parts that are text.
    """
    if isinstance(content, str):
        return content
    if content is None and optional:
        return ""
    if not isinstance(content, list):
        raise _wrong(path, "must be text or a list of parts", content)
    return "\n".join(_part(part, f"{path}[{index}]", parts) for index, part in enumerate(content))


def _part(part: object, path: str, known: tuple[str, ...]) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise _wrong(path, "must be an object with type and text", part)
    kind = part["type"]
    if kind not in known:
        message = f"{path}.type {kind!r:.40} is not supported: engines take text only"
        raise bad_request(message, f"{path}.type", "unsupported_content")
    return _text(part.get("text"), f"{path}.text")


def _tool_calls(calls: object, path: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise _wrong(path, "must be a list", calls)
    result = []
    for index, call in enumerate(calls):
        where = f"{path}[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise _wrong(f"{where}.function", "must be an object with name and arguments", function)
        name = _text(function.get("name"), f"{where}.function.name")
        arguments = call_arguments(function.get("arguments"), f"{where}.function.arguments")
        entry: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
        if call.get("id") is not None:
            entry["id"] = _text(call["id"], f"{where}.id")
        result.append(entry)
    return result


def call_arguments(arguments: object, path: str) -> Mapping[str, Any]:
    """The arguments of a tool call, which the API has as JSON text and chat templates as an object.

    Raises:
        ApiError: they are not JSON, or no object.
    """
    if arguments in (None, ""):
        return {}
    try:
        value = from_json(arguments, allow_inf_nan=False) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _wrong(path, "must be the text of a JSON object", arguments)
    return value


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, "must be text", value)
    return value


def _wrong(path: str, what: str, value: object) -> ApiError:
    return bad_request(f"{path} {what}, got {value!r:.60}", path, "invalid_value")
