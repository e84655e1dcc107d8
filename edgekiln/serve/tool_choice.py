"""The functions that a model may call, and whether it must."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekiln.serve.errors import ApiError, bad_request

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_MAX_TOOLS = 128
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class ToolChoice:
    """Functions that an answer may or must call.

    Attributes:
        tools: as chat templates have them, {"type": "function", "function": {name, description, parameters}}; without
            those that the request rules out.
        required: the answer must be a call.
        parallel: it may be several.
    """

    tools: Sequence[dict[str, Any]]
    required: bool
    parallel: bool


def chat_tools(tools: object, choice: object, parallel: bool) -> ToolChoice | None:
    """The tools of a request; None if there are none, or none may be called.

    Raises:
        ApiError: a tool or the choice has another form.
    """
    if tools is None or tools == []:
        if choice not in (None, "none", "auto"):
            raise bad_request("tool_choice goes with tools: give some", "tool_choice", "invalid_value")
        return None
    if not isinstance(tools, list) or len(tools) > _MAX_TOOLS:
        raise bad_request(f"tools must be a list of at most {_MAX_TOOLS} functions", "tools", "invalid_value")
    functions = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    names = [tool["function"]["name"] for tool in functions]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise bad_request(f"two tools are named {name}", f"tools[{index}].function.name", "invalid_value")
    if choice == "none":
        return None
    if choice in (None, "auto", "required"):
        return ToolChoice(functions, choice == "required", parallel)
    name = _named(choice)
    if name not in names:
        message = f"tool_choice must be none, auto, required or one of the tools, got {choice!r:.80}"
        raise bad_request(message, "tool_choice", "invalid_value")
    return ToolChoice([functions[names.index(name)]], True, False)


def _named(choice: object) -> str | None:
    if not isinstance(choice, dict) or choice.get("type") != "function":
        return None
    # /v1/responses has the name beside the type.
    function = choice.get("function", choice)
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _tool(tool: object, path: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise _wrong(path, "must be an object with type and function", tool)
    if tool.get("type") != "function":
        message = f"{path}.type must be function, got {tool.get('type')!r:.40}: this server has no tools of its own"
        raise bad_request(message, f"{path}.type", "unsupported_tool")
    for name in tool:
        if name not in ("type", "function"):
            raise bad_request(f"there is no field {path}.{name:.60}", f"{path}.{name:.60}", "unknown_parameter")
    return {"type": "function", "function": _function(tool.get("function"), f"{path}.function")}


def _function(function: object, path: str) -> dict[str, Any]:
    if not isinstance(function, dict):
        raise _wrong(path, "must be an object with name", function)
    for field in function:
        if field not in ("name", "description", "parameters", "strict"):
            raise bad_request(f"there is no field {path}.{field:.60}", f"{path}.{field:.60}", "unknown_parameter")
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong(f"{path}.name", "must be at most 128 letters, digits and _.-", name)
    if not isinstance(description, str | None):
        raise _wrong(f"{path}.description", "must be text", description)
    parameters = function.get("parameters")
    if not isinstance(parameters, dict | None):
        raise _wrong(f"{path}.parameters", "must be a JSON schema", parameters)
    if not isinstance(function.get("strict"), bool | None):
        raise _wrong(f"{path}.strict", "must be true or false", function["strict"])
    return {
        "name": name,
        "description": description or "",
        "parameters": _NO_PARAMETERS if parameters is None else parameters,
    }


def response_tools(tools: object, choice: object, parallel: bool) -> ToolChoice | None:
    """As `chat_tools`, of /v1/responses, where a function's fields are beside its type."""
    if isinstance(tools, list):
        nested = []
        for tool in tools:
            if isinstance(tool, dict) and tool.get("type") == "function":
                tool = {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}  # noqa: PLW2901
            nested.append(tool)
        tools = nested
    return chat_tools(tools, choice, parallel)


def _wrong(path: str, what: str, value: object) -> ApiError:
    return bad_request(f"{path} {what}, got {value!r:.60}", path, "invalid_value")
