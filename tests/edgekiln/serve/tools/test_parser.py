"""Tool calls in answers of all styles, cut into pieces anywhere; what is no call comes back unchanged."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekiln.runtimes.text.tools.styles import (
    GEMMA,
    GEMMA_JSON,
    GENERIC,
    GRANITE,
    HERMES,
    LFM2,
    LLAMA3,
    MISTRAL,
    MISTRAL_ARGS,
    PHI4,
    QWEN3_CODER,
    STYLES,
    Style,
    style_of,
)
from edgekiln.serve.tools.deltas import ToolCallDelta
from edgekiln.serve.tools.parser import ToolParser, text_of

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "typed",
            "parameters": {
                "properties": {
                    "text": {"type": "string"},
                    "kind": {"enum": ["1", "2"]},
                    "count": {"type": "integer"},
                    "any": {},
                }
            },
        },
    }
]


def parse(style: Style, text: str, cut: int | None = None) -> tuple[str, list[tuple[str, str]]]:
    """Content, and name and arguments of the calls, of a text in pieces of up to 5 characters."""
    parser, deltas, generator = ToolParser(style, TOOLS), [], random.Random(cut)
    while text:
        size = len(text) if cut is None else generator.randint(1, 5)
        deltas += parser.push(text[:size])
        text = text[size:]
    deltas += parser.finish()
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            if delta.name is not None:
                assert delta.id
                assert delta.index == len(calls)
                calls.append((delta.name, ""))
            else:
                assert delta.id is None
                assert delta.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
    assert parser.calls == len(calls)
    return text_of(deltas), calls


CALLS = [
    (
        HERMES,
        'Sure.\n<tool_call>\n{"name": "f", "arguments": {"a": [1, "x}\\"</tool_call>"]}}\n</tool_call>\n'
        '<tool_call>\n{"arguments": {"b": {}}, "name": "g"}\n</tool_call>',
        ("Sure.", [("f", '{"a": [1, "x}\\"</tool_call>"]}'), ("g", '{"b": {}}')]),
    ),
    (HERMES, '<tool_call>{"name": "f"}</tool_call> bye', (" bye", [("f", "{}")])),
    (HERMES, '<tool_call>{"name": "f", "arguments": null}</tool_call>', ("", [("f", "{}")])),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', ("", [("f", '{"a": 1}')])),
    (HERMES, '<tool_call>{"arguments": "{\\"a\\": 1}", "name": "f"}</tool_call>', ("", [("f", '{"a": 1}')])),
    (HERMES, '<tool_call>{"name": "f", "id": [1, {}], "arguments": {}, "x": 1}</tool_call>', ("", [("f", "{}")])),
    (
        HERMES,
        '<tool_call>[{"name": "f", "arguments": {}},\n{"name": "g"}]</tool_call>',
        ("", [("f", "{}"), ("g", "{}")]),
    ),
    (
        HERMES,
        '<tool_call>\n{"name": "f", "arguments": {}}\n{"name": "g"}\n</tool_call>',
        ("", [("f", "{}"), ("g", "{}")]),
    ),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": ', ("", [("f", '{"a": ')])),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}}', ("", [("f", "{}")])),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}}\n</tool_', ("", [("f", "{}")])),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}} and more', (" and more", [("f", "{}")])),
    (HERMES, 'A <tool_call> is <tool_call>{"name": "f"}</tool_call>', ("A <tool_call> is", [("f", "{}")])),
    (
        HERMES,
        '<tool_call>{"name": "f", "arguments": {"a": 1,}}</tool_call>',
        ("}}</tool_call>", [("f", '{"a": 1,')]),
    ),
    (LLAMA3, '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}', None),
    (LLAMA3, '\n\n<|python_tag|>{"name": "f", "parameters": {"a": 1}}\n', ("", [("f", '{"a": 1}')])),
    (LLAMA3, 'Yes: {"name": "f", "parameters": {}}', ('Yes: {"name": "f", "parameters": {}}', [])),
    (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]', None),
    (MISTRAL, '[TOOL_CALLS]{"name": "f", "arguments": {"a": 1}}', ("", [("f", '{"a": 1}')])),
    (MISTRAL_ARGS, '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]a1b2[ARGS]{}', None),
    (MISTRAL_ARGS, 'ok [TOOL_CALLS]f{"a": 1}', ("ok", [("f", '{"a": 1}')])),
    (GRANITE, '<|tool_call|>[{"name":"f","arguments":{"a": 1}},{"name":"g","arguments":{}}]', None),
    (PHI4, '<|tool_call|>[{"name":"f","arguments":{"a": 1}},{"name":"g","arguments":{}}]<|/tool_call|>', None),
    (LFM2, "<|tool_call_start|>[f(a=1), g()]<|tool_call_end|>", None),
    (
        LFM2,
        "<|tool_call_start|>[a.b(x='it\\'s ), [', y=[true, None], z={'k': -1.5, \"é\": (1, 2)})]<|tool_call_end|>Done",
        ("Done", [("a.b", '{"x": "it\'s ), [", "y": [true, null], "z": {"k": -1.5, "é": [1, 2]}}')]),
    ),
    (LFM2, '<|tool_call_start|>[{"name": "f", "arguments": {"a": 1}}]<|tool_call_end|>', ("", [("f", '{"a": 1}')])),
    (LFM2, '<|tool_call_start|>[f(a="\\ud83d\\ude00\\/")]<|tool_call_end|>', ("", [("f", '{"a": "😀/"}')])),
    (GEMMA, "Let me.\n```tool_code\nf(a=1)\ng()\n```\nDone", ("Let me.\nDone", [("f", '{"a": 1}'), ("g", "{}")])),
    (GEMMA_JSON, '{"name": "f", "parameters": {"a": 1}}\n{"name": "g", "parameters": {}}', None),
    (GEMMA_JSON, '```json\n{"name": "f", "parameters": {"a": 1}}\n```', ("", [("f", '{"a": 1}')])),
    (
        QWEN3_CODER,
        "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=g>\n</function>\n</tool_call>",
        None,
    ),
    (
        QWEN3_CODER,
        "<tool_call><function=typed><parameter=text>\n 12 \n\n</parameter><parameter=kind>1</parameter>"
        "<parameter=count>3</parameter><parameter=any>[1]</parameter><parameter=new>a</function>b</parameter></function>"
        "</tool_call>",
        ("", [("typed", '{"text": " 12 \\n", "kind": "1", "count": 3, "any": [1], "new": "a</function>b"}')]),
    ),
    (QWEN3_CODER, "<function=f><parameter=a>1</parameter></function>", ("", [("f", '{"a": 1}')])),
]


@pytest.mark.parametrize(("style", "text", "expected"), CALLS)
def test_calls(style, text, expected):
    expected = expected or ("", [("f", '{"a": 1}'), ("g", "{}")])
    assert parse(style, text) == expected
    for cut in range(20):
        assert parse(style, text, cut) == expected


@pytest.mark.parametrize(
    ("style", "text"),
    [
        (HERMES, '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
        (HERMES, '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
        (HERMES, "<tool_call>{'name': 'f'}</tool_call>"),
        (HERMES, '<tool_call>{"name": "f'),
        (HERMES, "x < y <tool_ca"),
        (HERMES, "<tool_call><tool_call>\n \n<tool_call>"),
        (HERMES, "  \n "),
        (LLAMA3, '{"name": "Bob", "age": 3}'),
        (LLAMA3, '{"a": 1} {"name": "f"'),
        (LLAMA3, "<|python_tag|>print(1)"),
        (MISTRAL, "[TOOL_CALLS]f g[ARGS]{}"),
        (MISTRAL, "[TOOL_CALLS]f[OTHER]{}"),
        (LFM2, "<|tool_call_start|>[f(1)]<|tool_call_end|>"),
        (LFM2, "<|tool_call_start|>[f(a=1, a=2)]<|tool_call_end|>"),
        (LFM2, "<|tool_call_start|>[f(a=g())]<|tool_call_end|>"),
        (LFM2, "<|tool_call_start|>[f(a=1e999)]<|tool_call_end|>"),
        (LFM2, "<|tool_call_start|>[f(a=(" + "(" * 500),
        (GEMMA, "```tool_code\nx = 5\n```"),
        (QWEN3_CODER, "<tool_call>nothing</tool_call>"),
        (QWEN3_CODER, "<tool_call>\n<function=f>\n<parameter=a>\n1"),
    ],
)
def test_what_is_no_call_is_content(style, text):
    assert parse(style, text) == (text, [])
    for cut in range(20):
        assert parse(style, text, cut) == (text, [])


def test_arguments_are_streamed():
    parser = ToolParser(HERMES)
    assert parser.push('<tool_call>\n{"name": "f"') == []
    (first,) = parser.push(', "arguments": {"ci')
    assert (first.index, first.name, first.arguments) == (0, "f", '{"ci')
    assert first.id.startswith("call_")
    assert parser.push('ty": "Par') == [ToolCallDelta(0, arguments='ty": "Par')]
    assert parser.push('is"}}\n</tool_call>') == [ToolCallDelta(0, arguments='is"}')]
    assert parser.finish() == []


def test_content_is_streamed():
    parser = ToolParser(HERMES)
    assert [text_of(parser.push(text)) for text in ("Hello", " <b>", "you", "\n", "<tool", "box>")] == [
        "Hello",
        " <b>",
        "you",
        "",
        "",
        "\n<toolbox>",
    ]


def test_ids_are_those_of_the_style():
    (call,) = ToolParser(MISTRAL).push('[TOOL_CALLS][{"name": "f", "arguments": {')
    assert len(call.id) == 9
    assert call.id.isalnum()
    ids = {ToolParser(HERMES).push('<tool_call>{"name": "f", "arguments": {')[0].id for _ in range(20)}
    assert len(ids) == 20


PARTS = [
    *{opened for style in STYLES for opened in style.opens},
    *{style.close for style in STYLES},
    *[
        "[",
        "]",
        "{",
        "}",
        '"',
        '"name": "f"',
        '"arguments": {',
        "f(a=1)",
        "f(",
        "[ARGS]",
        ",",
        ":",
        "\n",
        " ",
        "é",
        "1",
    ],
    *["<parameter=a>", "</parameter>", "</function>", "=f>", "\\"],
]


@given(st.sampled_from(STYLES), st.lists(st.sampled_from(PARTS), max_size=40), st.integers(0, 100))
@settings(max_examples=400, deadline=None)
def test_nothing_is_lost(style, parts, cut):
    text = "".join(parts)
    whole = parse(style, text)
    assert parse(style, text, cut) == whole
    content, calls = whole
    if not calls:
        assert content == text
    for character in "é1":
        found = content.count(character) + sum(json.dumps(call, ensure_ascii=False).count(character) for call in calls)
        assert found >= text.count(character) if style.body != "python" else True


@pytest.mark.parametrize("depth", [10, 150, 900, 5000, 20_000])
def test_containers_inside_each_other(depth):
    lists, texts = "[" * depth + "]" * depth, "[" * depth + "'x'" + "]" * depth
    for style, text in (
        (LFM2, f"<|tool_call_start|>[f(a={lists})]<|tool_call_end|>"),
        (LFM2, f"<|tool_call_start|>[f(a={texts})]<|tool_call_end|>"),
        (QWEN3_CODER, f"<tool_call><function=f><parameter=a>{lists}</parameter></function></tool_call>"),
        (HERMES, f'<tool_call>{{"name": "f", "arguments": "{{\\"a\\": {lists}}}"}}</tool_call>'),
    ):
        content, calls = parse(style, text)
        assert content == ("" if calls else text)


def test_many_texts_that_begin_like_calls():
    text = "<|tool_call_start|>f('" * 3000
    assert parse(LFM2, text) == (text, [])


@pytest.mark.parametrize(
    ("template", "style"),
    [
        ("{{ '<tool_call>\\n' }}{{ tool_call | tojson }}{{ '</tool_call>' }}", HERMES),
        ("{{ '<tool_call>\\n<function=' + tool_call.name + '>\\n' }}", QWEN3_CODER),
        ("{{ '[TOOL_CALLS] [' }}{{ '[AVAILABLE_TOOLS]' }}", MISTRAL),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}", MISTRAL_ARGS),
        ("{%- set system_prompt = 'List of tools: [' -%}", LFM2),
        ("{{ '<|tool_list_start|>[' }}", LFM2),
        ('{{- \'{"name": "\' + tool_call.name + \'", "parameters": \' }}<|start_header_id|>', LLAMA3),
        ("{{- '<|python_tag|>' + tool_call.name }}", LLAMA3),
        ("{{ '<|tool_call|>' }}", GRANITE),
        ("{{ '<|tool_call|>[...]<|/tool_call|>' }}", PHI4),
        ("<start_of_turn>```tool_code", GEMMA),
        ("<start_of_turn>", GEMMA_JSON),
        ("{{ '<|some other call|>' }}", GENERIC),
    ],
)
def test_the_style_is_that_of_the_template(template, style):
    assert style_of("{% if tools %}" + template) is style
    assert style_of(template.replace("tools", "").replace("TOOLS", "")) is GENERIC
