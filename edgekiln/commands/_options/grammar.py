"""Options of `run` that limit the answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgekiln.commands._text import Text, read_text

_Command = TypeVar("_Command", bound=Callable[..., Any])

# They become keyword arguments of `edgekiln.api_arguments.GenerateKeywords` by `grammar_keywords`.
_OPTIONS = (
    click.option(
        "--json-schema",
        "schema_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Answer with JSON of the schema in FILE.",
    ),
    click.option(
        "--grammar",
        "grammar_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Answer with a text of the grammar in FILE, in Lark's syntax or GBNF.",
    ),
    click.option("--regex", type=Text(), metavar="TEXT", help="Answer with a text that matches a regular expression."),
)


def grammar_options(command: _Command) -> _Command:
    """Add the options of `_OPTIONS` to a command; `grammar_keywords` converts them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def grammar_keywords(schema_file: Path | None, grammar_file: Path | None, regex: str | None) -> dict[str, Any]:
    """The keyword arguments of `GenerateKeywords` that were given.

    Raises:
        RequestError: a file is not UTF-8.
        OSError: it cannot be read.
        click.UsageError: more than one is given.
    """
    given = {"--json-schema": schema_file, "--grammar": grammar_file, "--regex": regex}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise click.UsageError(f"{' and '.join(names)} do not go together")
    if schema_file is not None:
        return {"json_schema": read_text(schema_file)}
    if grammar_file is not None:
        return {"grammar": read_text(grammar_file)}
    return {} if regex is None else {"regex": regex}
