"""The input of /v1/responses, a list of items, as messages of a chat template."""

from typing import Any

from edgekiln.serve.errors import ApiError, bad_request
from edgekiln.serve.messages import call_arguments, chat_message, text_of

_LABELS = ("id", "status", "type", "phase")  # of items that an earlier response had; they say nothing
_FIELDS = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": ("summary", "content", "encrypted_content"),
}


def response_messages(value: object, instructions: str | None) -> list[dict[str, Any]]:
    """The messages of a request.

    Args:
        value: the field `input`, a text or a list of items.
        instructions: a system message.

    Raises:
        ApiError: an item has another form; `param` is its path.
    """
    messages = [] if instructions is None else [{"role": "system", "content": instructions}]
    if isinstance(value, str):
        return [*messages, {"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise bad_request("input must be text or a list of items", "input", "invalid_value")
    for index, item in enumerate(value):
        _append(messages, item, f"input[{index}]")
    return messages


def _append(messages: list[dict[str, Any]], item: object, path: str) -> None:
    if not isinstance(item, dict):
        raise _wrong(path, "must be an object with type", item)
    kind = item.get("type", "message" if "role" in item else None)
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise _wrong(f"{path}.type", f"must be one of {', '.join(_FIELDS)}", kind)
    for name, value in item.items():
        if name not in _LABELS and name not in _FIELDS[kind] and value is not None:
            raise bad_request(f"there is no field {path}.{name:.60}", f"{path}.{name:.60}", "unknown_parameter")
    if kind == "message":
        message = chat_message({name: item[name] for name in _FIELDS["message"] if name in item}, path)
        if message["role"] == "assistant" and _is_open(messages) and not messages[-1]["content"]:
            messages[-1]["content"] = message["content"]
        else:
            messages.append(message)
    elif kind == "reasoning":
        if text := text_of(item.get("content") or [], f"{path}.content", parts=("reasoning_text",)):
            messages.append({"role": "assistant", "content": "", "reasoning_content": text})
    elif kind == "function_call":
        _append_call(messages, item, path)
    else:
        content = text_of(item.get("output"), f"{path}.output")
        messages.append({"role": "tool", "content": content, "tool_call_id": _text(item, "call_id", path)})


def _append_call(messages: list[dict[str, Any]], item: dict[str, Any], path: str) -> None:
    function = {
        "name": _text(item, "name", path),
        "arguments": call_arguments(item.get("arguments"), f"{path}.arguments"),
    }
    call = {"id": _text(item, "call_id", path), "type": "function", "function": function}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    messages[-1].setdefault("tool_calls", []).append(call)


def _is_open(messages: list[dict[str, Any]]) -> bool:
    """Whether the last message is one of the assistant that has only its reasoning yet."""
    return bool(messages) and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]


def _text(item: dict[str, Any], name: str, path: str) -> str:
    if not isinstance(item.get(name), str):
        raise _wrong(f"{path}.{name}", "must be text", item.get(name))
    text: str = item[name]
    return text


def _wrong(path: str, what: str, value: object) -> ApiError:
    return bad_request(f"{path} {what}, got {value!r:.60}", path, "invalid_value")
