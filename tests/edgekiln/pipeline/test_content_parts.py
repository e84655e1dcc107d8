"""Chat templates that take lists of parts get the text of messages, as transformers renders it from such lists."""

import dataclasses
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from edgekiln.pipeline.content_parts import with_content_parts
from edgekiln.runtimes.text.chat_template import render
from edgekiln.sources.resolve import resolve
from support.models import save_checkpoint, tiny_tokenizer

# The loops of published templates: of SmolVLM, of LLaVA, and of Qwen-VL, which takes text as well.
BY_TYPE = (
    "{% for message in messages %}{{ message['role'] }}: {% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' %}<image>{% endif %}"
    "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
SELECTED = (
    "{% for message in messages %}{{ message.role }}: "
    "{% for part in message.content | selectattr('type', 'equalto', 'text') %}{{ part.text }}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
EITHER = (
    "{% for message in messages %}{{ message.role }}: {% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
CHAT = [("system", "Be brief."), ("user", "Hi, <|end|> {{ x }}"), ("assistant", "Hello."), ("user", "Bye")]


@pytest.mark.parametrize("template", [BY_TYPE, SELECTED, EITHER])
def test_text_is_rendered_as_parts_are_by_transformers(tmp_path: Path, template: str) -> None:
    save_checkpoint(tmp_path, "llama")
    source = dataclasses.replace(resolve(str(tmp_path)), chat_template={"default": template, "other": EITHER})
    templates = with_content_parts(source).chat_template
    assert isinstance(templates, dict)
    assert templates["other"] == EITHER
    tokenizer: PreTrainedTokenizerFast = tiny_tokenizer()
    parts = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in CHAT]
    expected = tokenizer.apply_chat_template(parts, chat_template=template, tokenize=False, add_generation_prompt=True)
    messages = [{"role": role, "content": text} for role, text in CHAT]
    for given in (messages, parts):
        assert render(templates["default"], {"messages": given, "add_generation_prompt": True}) == expected
