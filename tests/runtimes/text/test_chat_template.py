"""Chat templates, compared with apply_chat_template of transformers."""

import pytest

from edgekiln.engine.directory import TOKENIZER_FILE
from edgekiln.engine.manifest import SpecialTokens, read_manifest
from edgekiln.errors import RequestError
from edgekiln.runtimes.text.chat_template import render
from edgekiln.runtimes.text.marked_text import given, given_message
from edgekiln.runtimes.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

BOS, EOS = "<|im_start|>", "<|im_end|>"
MESSAGES = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": "Grüße, 世界?"},
    {"role": "assistant", "content": " Hello. "},
    {"role": "user", "content": "And now?"},
]
TOOLS = [{"type": "function", "function": {"name": "höhe", "parameters": {"b": [1, 2], "a": "<x>"}}}]
TEMPLATES = {
    "chatml with a default system prompt": """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "lines, blanks and loop control": """\
{{ bos_token }}
    {% for message in messages %}
        {%- if message.role == 'system' %}
            {% continue %}
        {% endif %}
    [{{ message.role | upper }}] {{ message.content | trim }}
        {% if loop.index > 2 %}{% break %}{% endif %}
    {% endfor %}
{{- eos_token }}{{ pad_token }}{{ unk_token }}""",
    "tools and tojson": """\
{% if tools is not none %}{{ tools | tojson }}{{ tools[0] | tojson(indent=2) }}{% endif %}
{{ documents is none }}{{ messages | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}""",
    "generation blocks, namespaces and a flag": """\
{%- set state = namespace(count=0) %}{% set role = 'none' %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}{% generation %}{% set role = 'inner' %}{{ message.content }}{% endgeneration %}
{%- else %}{% set state.count = state.count + 1 %}{{ message.content }}{% endif %}
{%- endfor %}{{ state.count }}{{ role }}{{ thinking | default('off') }}""",
    "today": "{{ strftime_now('%Y-%m-%d') }}",
}


def both(engine, template):
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine))
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(engine / TOKENIZER_FILE), bos_token=BOS, eos_token=EOS, pad_token=EOS
    )
    theirs.chat_template = template
    special_tokens = SpecialTokens(bos=257, eos=[258], pad=258, template_variables=theirs.special_tokens_map)
    ours = Tokenizer(tokenizer._tokenizer, special_tokens, template)
    return ours, theirs


@pytest.mark.parametrize(
    ("tools", "variables"), [(None, {}), (TOOLS, {"thinking": "on"})], ids=["plain", "tools and variables"]
)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_the_text_is_that_of_transformers(engine, template, add_generation_prompt, tools, variables):
    ours, theirs = both(engine, template)
    got = ours.apply_chat_template(MESSAGES, add_generation_prompt, tools=tools, template_variables=variables)
    expected = theirs.apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=add_generation_prompt, tools=tools, **variables
    )
    assert got == expected


CALL = {"type": "function", "function": {"name": "höhe", "arguments": {"a": "Tokyo", "b": [1, 2.5, None, True]}}}
TOOL_USE = """\
{%- macro show(value, depth=0) -%}
{%- if value is mapping -%}
    {%- for key, item in value | dictsort -%}
        {{ key }}={{ show(item, depth + 1) }}{{ ', ' if not loop.last }}
    {%- endfor -%}
{%- elif value is string -%}{{ '"%s"' % value }}
{%- elif value is iterable -%}{{ value | map('string') | join('|') }}
{%- else -%}{{ value }}
{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last=messages | length - 1) -%}
{%- for m in messages[::-1] if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endfor -%}
{%- for m in messages -%}
    {{- '<|im_start|>' ~ m.role ~ '\n' -}}
    {%- if m.content is string -%}
        {%- set parts = m.content.split('</think>') -%}
        {{- parts[0].rstrip('\n').split('<think>')[-1].lstrip() if parts | length > 1 else '' -}}
        {{- parts[-1] | trim | indent(2) -}}
    {%- else -%}
        {%- for part in m.content | selectattr('type', 'equalto', 'text') -%}
            {{ part.text | replace('\n', ' ') }}
        {%- endfor -%}
    {%- endif -%}
    {%- for call in m.tool_calls or [] -%}
        {{- '<tool_call>{"name": "' + call.function.name + '", ' + call.function.arguments | tojson + '}' }}
        {{- show(call.function.arguments) }}{{ '{} of {n}'.format(loop.index, n=loop.length) -}}
    {%- endfor -%}
    {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if tools -%}{{- tools | map(attribute='function') | map(attribute='name') | join(', ') -}}{%- endif -%}"""


@pytest.mark.parametrize("tools", [None, TOOLS])
def test_tool_calls_and_lists_as_content(engine, tools):
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "one\n"}, {"type": "image"}, {"type": "text", "text": "two"}],
        },
        {"role": "assistant", "content": "<think>\n hm\n</think>\n\n ok\n so ", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": " 3776 m ", "name": "höhe"},
    ]
    ours, theirs = both(engine, TOOL_USE)
    expected = theirs.apply_chat_template(messages, tools=tools, tokenize=False)
    assert ours.apply_chat_template(messages, tools=tools) == expected
    ids = theirs.apply_chat_template(messages, tools=tools, return_dict=False)
    assert ours.encode_chat(messages, tools=tools).tolist() == ids
    assert ours.encode_chat(messages, tools=tools, parse_special=True).tolist() == ids


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_marks_do_not_change_the_text(engine, template):
    ours, _ = both(engine, template)
    variables = {**ours.special_tokens.template_variables, "tools": TOOLS, "documents": None}
    expected = render(template, {**variables, "messages": MESSAGES})
    marked = {**variables, "tools": given(TOOLS), "messages": [given_message(message) for message in MESSAGES]}
    text = render(template, marked, marks=True)
    assert (text, len(text.marks)) == (expected, len(expected))


def test_chat_ids_have_no_second_bos(engine):
    ours, theirs = both(engine, TEMPLATES["lines, blanks and loop control"])
    expected = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert ours.encode_chat(MESSAGES).tolist() == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must\n alternate') }}", "roles must alternate"),
        ("{% for %}", "Expected an expression"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ messages[9].content }}", "has no attribute|has no element 9"),
        ("{{ messages.append(1) }}", "is not safely callable|unsafe"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ],
)
def test_templates_that_fail(engine, template, reason):
    ours, _ = both(engine, template)
    with pytest.raises(RequestError, match=f"the chat template does not take these messages: .*({reason})") as caught:
        ours.apply_chat_template(MESSAGES)
    assert "\n" not in str(caught.value)


def test_an_engine_without_a_template(engine):
    ours, _ = both(engine, None)
    assert not ours.has_chat_template
    with pytest.raises(RequestError, match="the engine has no chat template: give a plain prompt instead"):
        ours.apply_chat_template(MESSAGES)
