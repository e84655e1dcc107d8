"""Chat templates with the features of the families' templates, and conversations to render with them."""

import itertools
from collections.abc import Callable, Iterator

from edgekiln.pipeline.chat_segments import ChatSegments, Render, allows
from edgekiln.runtimes.text.chat_template import render
from edgekiln.runtimes.text.marked_text import given_message

_TURNS = "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no turns') }}{% endif %}"
CHATML = """\
{% for message in messages %}{% if loop.first and message.role != 'system' %}
{{- '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA2 = (
    """\
{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}
{%- set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{%- for message in rest %}"""
    + _TURNS
    + """{% set content = system + message.content if loop.first else message.content %}
{%- if message.role == 'user' %}{{ bos_token + '[INST] ' + content + ' [/INST]' }}
{%- else %}{{ ' ' + content + ' ' + eos_token }}{% endif %}{% endfor %}"""
)
LLAMA3 = """\
{{- bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}
{%- set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + strftime_now('%d %b %Y') + '\n\n' + system }}
{{- '<|eot_id|>' }}{% for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + (message.content | trim) + '<|eot_id|>' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
GEMMA = (
    """\
{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}
{%- set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}
{%- for message in rest %}"""
    + _TURNS
    + """{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) }}
{{ (first if loop.first else '') + (message.content | trim) + '<end_of_turn>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
)
# The system message goes before the last of the user's.
MISTRAL = (
    """\
{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set messages = messages[1:] %}{% endif %}
{{- bos_token }}{% for message in messages %}"""
    + _TURNS
    + """{% if message.role == 'user' %}
{%- if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + message.content + '[/INST]' }}
{%- else %}{{ '[INST] ' + message.content + '[/INST]' }}{% endif %}
{%- else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"""
)
# Thoughts of former answers are forgotten; an answer after the last question keeps them.
QWEN3 = """\
{% set state = namespace(last=0) %}{% for message in messages %}{% if message.role == 'user' %}
{%- set state.last = loop.index0 %}{% endif %}{% endfor %}{% for message in messages %}
{%- set content = message.content %}{% if message.role == 'assistant' and '</think>' in content %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' and loop.index0 > state.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{{- content + '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}"""
# A blank message is left out.
BLANKS = """\
{% for message in messages %}{% if message.content.strip() %}
{{- message.role + ': ' + message.content.strip() + '\n' }}{% endif %}{% endfor %}"""
STRICT = """\
{% for message in messages[1:] %}{% if message.role == 'system' %}
{{- raise_exception('system is not first') }}{% endif %}{% endfor %}"""
IN_TURNS = """\
{% for message in (messages[1:] if messages[0].role == 'system' else messages) %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no turns') }}{% endif %}{% endfor %}"""

# name -> (template, order of roles that its segments accept, whether they accept a system message)
TEMPLATES = {
    "chatml": (CHATML, "any", True),
    "llama2": (LLAMA2, "turns", True),
    "llama3": (LLAMA3, "any", True),
    "strict": (STRICT + CHATML, "system-first", True),
    "qwen3 in turns": (STRICT + IN_TURNS + QWEN3, "turns-user-last", True),
    "gemma": (GEMMA, "turns", True),
    "mistral": (MISTRAL, "turns", False),
    "qwen3": (QWEN3, "user-last", True),
    "blanks": (BLANKS, "any", True),
}
UNSUPPORTED = {
    "upper case": "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
    "length": "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "json": "{{ messages | tojson }}",
    "an unknown date": "{{ strftime_now('%f') }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "broken": "{% for m in messages %}",
}
_CONTENTS = ["Hello?", " padded\n", "\x1c\u00a0odd\u2003", "<think>\nhm</think>\n\nyes ", "日本語 <|im_end|>", "", " "]


def conversations() -> Iterator[list[dict[str, str]]]:
    """Of up to four messages, in every order of roles, with contents of every kind."""
    contents = itertools.cycle(_CONTENTS)
    for length in range(1, 5):
        for roles in itertools.product(["system", "user", "assistant"], repeat=length):
            yield [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


def renderer(template: str, marks: bool = False) -> Render:
    """Render a template with edgekiln's variables, from messages and the value of `strftime_now`.

    Args:
        template: Jinja2 source.
        marks: the prompt is a `MarkedText` whose given characters are those of messages.
    """
    special = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}

    def fill(messages: list[dict[str, str]], now: Callable[[str], str]) -> str:
        texts = [given_message(message) for message in messages] if marks else messages
        return render(template, {**special, "messages": texts, "strftime_now": now}, marks=marks)

    return fill


def takes(segments: ChatSegments, messages: list[dict[str, str]]) -> bool:
    """Whether segments accept a conversation."""
    roles = [message["role"] for message in messages]
    blank = any(message["role"] in segments.needs_text and not message["content"].strip() for message in messages)
    return allows(segments.order, roles) and set(roles) <= set(segments.rules) and not blank
