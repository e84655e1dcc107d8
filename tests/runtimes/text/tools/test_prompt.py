"""Conversations with tools, with chat templates that have tools and that have none."""

import json
from typing import Any

import pytest

from edgekiln.engine.manifest import SpecialTokens
from edgekiln.errors import RequestError
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.runtimes.text.tools.generic import generic_messages
from edgekiln.runtimes.text.tools.prompt import chat_ids
from support.models import tiny_tokenizer

TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
WITHOUT = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
WITH = "{{ tools | tojson }}" + WITHOUT
USER = {"role": "user", "content": "What time is it?"}
CALL = {"type": "function", "id": "1", "function": {"name": "now", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "3"}


def tokenizer(template: object) -> Tokenizer:
    return Tokenizer(tiny_tokenizer().backend_tokenizer, SpecialTokens(eos=[0]), template)  # type: ignore[arg-type]


def text(template: str, messages: list[dict[str, Any]], **options: Any) -> str:
    tokens = tokenizer(template)
    return tokens.decode(chat_ids(tokens, messages, **options))


def test_a_template_with_tools_gets_them() -> None:
    tokens = tokenizer(WITH)
    messages = [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, RESULT]
    for tools in (TOOLS, None):
        assert chat_ids(tokens, messages, tools=tools).tolist() == tokens.encode_chat(messages, tools=tools).tolist()


def test_a_template_without_tools_gets_messages() -> None:
    tokens = tokenizer(WITHOUT)
    messages = [USER, {"role": "assistant", "tool_calls": [CALL]}, RESULT]
    expected = generic_messages(messages, TOOLS, tokens, {})
    assert chat_ids(tokens, messages, tools=TOOLS).tolist() == tokens.encode_chat(expected).tolist()
    assert '"name": "now"' in text(WITHOUT, [USER], tools=TOOLS)
    assert "<tool_call>\n" + json.dumps({"name": "now", "arguments": {}}) in text(WITHOUT, messages)
    assert text(WITHOUT, [USER], tools=[]) == text(WITHOUT, [USER], tools=None) == "user:What time is it?;"
    function_alone = [TOOLS[0]["function"]]
    assert text(WITHOUT, [USER], tools=function_alone) == text(WITHOUT, [USER], tools=TOOLS)


def test_templates_by_name_and_special_tokens() -> None:
    tokens = tokenizer({"default": WITH, "plain": WITHOUT})
    named = chat_ids(tokens, [USER], tools=TOOLS, chat_template="plain")
    assert "You may call" in tokens.decode(named)
    assert "You may call" not in tokens.decode(chat_ids(tokens, [USER], tools=TOOLS))
    assert chat_ids(tokens, [USER], tools=TOOLS, chat_template="plain", parse_special=True).size == named.size


@pytest.mark.parametrize(
    ("messages", "tools", "message"),
    [
        ([], TOOLS, "the conversation is empty"),
        ("hi", TOOLS, "messages must be a list"),
        ([{"content": "x"}], TOOLS, "a message must have a role"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], TOOLS, "takes text as content"),
        ([USER], [{"type": "function"}], "a tool must have a function with a name"),
        ([USER], [{"function": {"name": 5}}], "a tool must have a function with a name"),
        ([USER], "now", "tools must be"),
        ([{"role": "assistant", "tool_calls": [{}]}], None, "a tool call must have a function"),
        ([{"role": "assistant", "tool_calls": ["now"]}], None, "a tool call must have a function"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            None,
            "must be JSON, got '{'",
        ),
        ([{"role": "assistant", "tool_calls": [{**CALL, "id": []}]}], None, "the id of a tool call must be text"),
        ([{**RESULT, "tool_call_id": {}}], None, "the id of a tool call must be text"),
        ([{"role": "tool"}], None, "takes text as content, got None"),
    ],
)
def test_what_is_refused(messages: Any, tools: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        chat_ids(tokenizer(WITHOUT), messages, tools=tools)


def test_without_a_template() -> None:
    with pytest.raises(RequestError, match="has no chat template"):
        chat_ids(tokenizer(None), [USER], tools=TOOLS)
