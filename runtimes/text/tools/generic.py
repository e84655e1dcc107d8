"""Tools for chat templates that have none: all about them is text of messages that any template takes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgekiln.errors import RequestError
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.runtimes.text.tools.styles import GENERIC

_BEFORE = "# Tools\n\nYou may call these functions, given as JSON, one a line:\n<tools>\n"
_AFTER = (
    "\n</tools>\n\nTo call a function, answer with its name and arguments as JSON, in exactly this form:\n"
    f'{GENERIC.opens[0]}\n{{"name": "NAME", "arguments": {{"PARAMETER": "VALUE"}}}}\n{GENERIC.close}\n'
    "Write one such block for each call. If no function helps, answer without them."
)
_PROBE = "tools"

Messages = Sequence[Mapping[str, Any]]


def generic_messages(
    messages: Messages,
    tools: Messages | None,
    tokenizer: Tokenizer,
    variables: Mapping[str, Any],
    chat_template: str | None = None,
) -> list[dict[str, Any]]:
    """Messages with tools, for a chat template that has none.

    Calls are written as `GENERIC` reads them, into the assistant's messages. Results become messages of the user, which
    a message of the user that follows joins, as many templates ask for turns in alternation.

    Args:
        messages: with text as content, as in OpenAI's API; arguments of calls may be JSON text, or objects.
        tools: that are described in the system message; None for none. A template without system messages has them in
            the first message of the user.
        tokenizer: with the chat template.
        variables: further variables of the template.
        chat_template: its name, where the engine has several.

    Returns:
        Messages without `tool_calls` and without the role tool.

    Raises:
        RequestError: content that is no text, a call without a function, or a tool without a name.
    """
    result = _without_tools(messages)
    if tools:
        _add(_description(tools), result, _takes_system_messages(tokenizer, variables, chat_template))
    return result


def _description(tools: Messages) -> str:
    functions = [tool.get("function", tool) for tool in tools]  # transformers also takes functions alone
    for function in functions:
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RequestError(f"a tool must have a function with a name, got {function!r:.60}")
    return _BEFORE + "\n".join(_json(function) for function in functions) + _AFTER


def _add(text: str, messages: list[dict[str, Any]], system: bool) -> None:
    """Add the description of tools."""
    if system and messages[0]["role"] == "system":
        messages[0]["content"] = _joined(messages[0]["content"], text)
        return
    user = next((message for message in messages if message["role"] == "user"), None)
    if system or user is None:
        messages.insert(0, {"role": "system" if system else "user", "content": text})
    else:
        user["content"] = _joined(text, user["content"])


def _takes_system_messages(tokenizer: Tokenizer, variables: Mapping[str, Any], chat_template: str | None) -> bool:
    """Whether the chat template writes the text of a system message."""
    probe = [{"role": "system", "content": _PROBE}, {"role": "user", "content": ""}]
    texts = []
    try:
        for content in (_PROBE, ""):
            probe[0]["content"] = content
            texts.append(
                tokenizer.apply_chat_template(probe, template_variables=variables, chat_template=chat_template)
            )
    except RequestError:
        return False
    return len(texts[0]) > len(texts[1])


def _without_tools(messages: Messages) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of the functions, by the id of the call
    is_result = False  # the last message
    for message in messages:
        _check(message)
        made = {key: value for key, value in message.items() if key not in ("tool_calls", "tool_call_id")}
        if message["role"] == "tool":
            made = {"role": "user", "content": _result(message, names)}
        for call in message.get("tool_calls") or ():
            names[call.get("id", "")] = call["function"]["name"]
            made["content"] = _joined(made.get("content") or "", _call(call["function"]), "\n")
        if is_result and made["role"] == "user":
            made = {"role": "user", "content": _joined(result.pop()["content"], made["content"], "\n")}
        result.append(made)
        is_result = message["role"] == "tool" or (is_result and made["role"] == "user")
    return result


def _check(message: Mapping[str, Any]) -> None:
    content, calls = message.get("content"), message.get("tool_calls") or ()
    if not isinstance(message.get("role"), str):
        raise RequestError(f"a message must have a role, got {message!r:.60}")
    ids = [message.get("tool_call_id"), *(call.get("id") for call in calls if isinstance(call, Mapping))]
    if wrong := [each for each in ids if each is not None and not isinstance(each, str)]:
        raise RequestError(f"the id of a tool call must be text, got {wrong[0]!r:.60}")
    if not isinstance(content, str) and not (calls and content is None):
        raise RequestError(f"with tools, this chat template takes text as content, got {content!r:.60}")
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RequestError(f"a tool call must have a function with name and arguments, got {call!r:.60}")


def _call(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise RequestError(f"arguments of a tool call must be JSON, got {arguments!r:.60}") from error
    call = _json({"name": function["name"], "arguments": arguments})
    return f"{GENERIC.opens[0]}\n{call}\n{GENERIC.close}"


def _result(message: Mapping[str, Any], names: Mapping[str, str]) -> str:
    name = names.get(message.get("tool_call_id", ""), message.get("name"))
    result = _json(({} if name is None else {"name": name}) | {"content": message["content"]})
    return f"<tool_response>\n{result}\n</tool_response>"


def _joined(first: str, second: str, between: str = "\n\n") -> str:
    return first + between + second if first and second else first or second


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
