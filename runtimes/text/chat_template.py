"""Render a model's chat template with Jinja2, in a sandbox and with the extensions that transformers offers templates.

The C++ library has no Jinja2; its text/chat_template.h renders chat_segments.json.
"""

import functools
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgekiln.errors import RequestError


class GenerationBlocks(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's tokens for training; no effect here."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the block to a scope, so that variables set inside stay inside, as in transformers."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def render(template: str, messages: Sequence[dict[str, Any]], **variables: Any) -> str:
    """Render a template.

    Args:
        template: Jinja2 source.
        messages: the template's variable `messages`.
        variables: its other variables.

    Raises:
        RequestError: the template is invalid or refuses the messages.
    """
    try:
        return _compile(template).render(messages=messages, **variables)
    except Exception as error:  # a template can raise anything
        reason = " ".join(str(error).split())
        raise RequestError(f"the chat template does not take these messages: {reason}") from error


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, LoopControlExtension]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment.from_string(template)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Like Jinja2's filter, but without escaping HTML: the model would read the escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
