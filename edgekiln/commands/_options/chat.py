"""Options of `run` and `chat` for the chat template."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from edgekiln.commands._text import Text, read_text
from edgekiln.errors import RequestError

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Variable(Text):
    """NAME=VALUE, as the name and the value: JSON where it parses, else text."""

    name = "variable"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (name, value); a usage error where there is no equals sign."""
        if not isinstance(value, str):
            return value
        name, separator, text = super().convert(value, param, ctx).partition("=")
        if not separator:
            self.fail(f"give NAME=VALUE, got {value!r:.60}", param, ctx)
        try:
            return name, json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return name, text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


# But for --system, they become the keyword arguments of `edgekiln.api_arguments.ChatKeywords` by `chat_keywords`.
_OPTIONS = (
    click.option("--system", type=Text(), metavar="TEXT", help="System message of the chat."),
    click.option(
        "--tools",
        "tools_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="JSON list of the functions that the model may call.",
    ),
    click.option(
        "--template-var",
        "template_variables",
        type=Variable(),
        multiple=True,
        metavar="NAME=VALUE",
        help="Variable of the chat template, e.g. enable_thinking=false; may be repeated.",
    ),
    click.option("--chat-template", metavar="NAME", help="Chat template to use, where the engine has several."),
    click.option(
        "--parse-special",
        is_flag=True,
        help="Take control tokens in the text of messages as such. Only for text that you trust.",
    ),
)


def chat_options(command: _Command) -> _Command:
    """Add the options of `_OPTIONS` to a command; `chat_keywords` converts them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chat_keywords(
    tools_file: Path | None,
    template_variables: tuple[tuple[str, Any], ...],
    chat_template: str | None,
    parse_special: bool,
) -> dict[str, Any]:
    """The keyword arguments of `ChatKeywords` that were given.

    Raises:
        RequestError: the file of --tools is not JSON, or holds null.
        OSError: it cannot be read.
    """
    keywords: dict[str, Any] = {}
    if tools_file is not None:
        try:
            keywords["tools"] = json.loads(read_text(tools_file))
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{tools_file} is not valid JSON ({error}): correct it") from error
        if keywords["tools"] is None:  # which Engine.chat takes for no tools
            raise RequestError(f"{tools_file} holds null, which is no list of tools: correct it")
    if template_variables:
        keywords["template_variables"] = dict(template_variables)
    if chat_template is not None:
        keywords["chat_template"] = chat_template
    if parse_special:
        keywords["parse_special"] = True
    return keywords
