"""Chat templates that take the content of a message only as a list of parts, as those of models with images do.

Such a template drops content that is a text, without an error: it takes the text's characters for parts. It gets a
beginning here that makes a text the list `[{"type": "text", "text": ...}]`, so that all who render it may give texts.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgekiln.errors import RequestError
from edgekiln.pipeline.chat_segments import template_variables
from edgekiln.runtimes.text.chat_template import render
from edgekiln.runtimes.text.template_budget import TemplateLimitError
from edgekiln.sources.base import ModelSource

_MAKE_PARTS = (
    "{%- set ns_parts = namespace(messages=[]) -%}{%- for message in messages -%}"
    "{%- set content = [{'type': 'text', 'text': message['content']}] if message['content'] is string"
    " else message['content'] -%}"
    "{%- set ns_parts.messages = ns_parts.messages + [dict(message, content=content)] -%}"
    "{%- endfor -%}{%- set messages = ns_parts.messages %}"
)
_TEXT = "edgekiln tries this text"


def with_content_parts(source: ModelSource) -> ModelSource:
    """The source with chat templates that take text as the content of messages, where they take lists of parts."""
    templates = source.chat_template
    if isinstance(templates, Mapping):
        changed: Any = {name: _taking_text(template, source) for name, template in templates.items()}
    else:
        changed = templates and _taking_text(templates, source)
    return dataclasses.replace(source, chat_template=changed)


def _taking_text(template: str, source: ModelSource) -> str:
    with_parts = _MAKE_PARTS + template
    return with_parts if not _keeps_text(template, source) and _keeps_text(with_parts, source) else template


def _keeps_text(template: str, source: ModelSource) -> bool:
    messages = [{"role": "user", "content": _TEXT}]
    try:
        return _TEXT in render(template, {**template_variables(source), "messages": messages})
    except TemplateLimitError:
        raise
    except RequestError:
        return False
