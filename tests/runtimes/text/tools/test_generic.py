"""Messages with tools, in the chat templates of models that have no tools."""

import json

import pytest

from edgekiln.engine.manifest import SpecialTokens
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.runtimes.text.tools.generic import generic_messages
from edgekiln.runtimes.text.tools.styles import GENERIC
from edgekiln.serve.tools.deltas import ToolCallDelta
from edgekiln.serve.tools.parser import ToolParser
from support.models import tiny_tokenizer

TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "é", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object"}}},
]
# Templates of the three kinds: one takes system messages, one raises at them, one leaves them out.
ANY = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
)
SILENT = "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


def tokenizer(template: str) -> Tokenizer:
    return Tokenizer(tiny_tokenizer().backend_tokenizer, SpecialTokens(eos=[0]), template)


def call(name: str, arguments: dict, id_: str) -> dict:
    return {"type": "function", "id": id_, "function": {"name": name, "arguments": arguments}}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def tool(text: str, id_: str) -> dict:
    return {"role": "tool", "content": text, "tool_call_id": id_}


HISTORY = [
    user("Weather?"),
    {"role": "assistant", "content": "Sure.", "tool_calls": [call("weather", {"a": "é"}, "1"), call("now", {}, "2")]},
    tool("3 o'clock", "2"),
    tool('"sunny"', "1"),
    user("And?"),
    {"role": "assistant", "content": "", "tool_calls": [call("now", {}, "3")], "reasoning_content": "hm"},
    tool("4", "3"),
]


def test_calls_and_results_become_turns_in_alternation():
    made = generic_messages(HISTORY, None, tokenizer(ALTERNATING), {})
    assert [message["role"] for message in made] == ["user", "assistant", "user", "assistant", "user"]
    assert made[1]["content"] == (
        'Sure.\n<tool_call>\n{"name": "weather", "arguments": {"a": "é"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    )
    assert made[2]["content"] == (
        '<tool_response>\n{"name": "now", "content": "3 o\'clock"}\n</tool_response>\n'
        '<tool_response>\n{"name": "weather", "content": "\\"sunny\\""}\n</tool_response>\nAnd?'
    )
    assert made[3] == {
        "role": "assistant",
        "content": '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        "reasoning_content": "hm",
    }
    assert all(message.keys() <= {"role", "content", "reasoning_content"} for message in made)


def test_calls_are_written_as_they_are_read():
    content = generic_messages(HISTORY, None, tokenizer(ANY), {})[1]["content"]
    parser = ToolParser(GENERIC)
    calls = [delta for delta in parser.push(content) + parser.finish() if isinstance(delta, ToolCallDelta)]
    assert [(delta.name, json.loads(delta.arguments)) for delta in calls] == [("weather", {"a": "é"}), ("now", {})]


def test_a_list_of_calls_is_read():
    parser = ToolParser(GENERIC)
    deltas = parser.push('<tool_call>[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]</tool_call>')
    assert [delta.name for delta in deltas + parser.finish()] == ["f", "g"]


def test_a_result_without_a_call():
    (made,) = generic_messages([{"role": "tool", "content": "x", "name": "f"}], None, tokenizer(ANY), {})
    assert made == user('<tool_response>\n{"name": "f", "content": "x"}\n</tool_response>')
    (made,) = generic_messages([tool("x", "9")], None, tokenizer(ANY), {})
    assert made == user('<tool_response>\n{"content": "x"}\n</tool_response>')


def test_messages_without_tools_stay_as_they_are():
    messages = [{"role": "system", "content": "Be brief."}, user("Hello"), {"role": "assistant", "content": "Hi"}]
    assert generic_messages(messages, None, tokenizer(ANY), {}) == messages


def test_tools_are_described_in_the_system_message():
    (system, first) = generic_messages([user("Hello")], TOOLS, tokenizer(ANY), {})
    assert first == user("Hello")
    assert system["role"] == "system"
    assert (
        '{"name": "weather", "description": "é", "parameters": {"type": "object"}}\n{"name": "now"'
        in (system["content"])
    )
    assert '<tool_call>\n{"name": "NAME", "arguments": ' in system["content"]
    messages = [{"role": "system", "content": "Be brief."}, user("Hello")]
    (again, _) = generic_messages(messages, TOOLS, tokenizer(ANY), {})
    assert again == {"role": "system", "content": f"Be brief.\n\n{system['content']}"}
    assert messages[0]["content"] == "Be brief."


@pytest.mark.parametrize("template", [ALTERNATING, SILENT])
def test_without_system_messages_the_user_describes_the_tools(template):
    (system, _) = generic_messages([user("Hello")], TOOLS, tokenizer(ANY), {})
    made = generic_messages([user("Hello"), {"role": "assistant", "content": "Hi"}], TOOLS, tokenizer(template), {})
    assert made == [user(f"{system['content']}\n\nHello"), {"role": "assistant", "content": "Hi"}]
    (made,) = generic_messages([tool("x", "1")], TOOLS, tokenizer(template), {})
    assert made["content"].startswith("# Tools")
    assert made["content"].endswith("</tool_response>")
    made = generic_messages([{"role": "assistant", "content": "Hi"}], TOOLS, tokenizer(template), {})
    assert [message["role"] for message in made] == ["user", "assistant"]
