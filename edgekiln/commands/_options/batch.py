"""Options of `run` for files of prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--jsonl",
        type=click.Path(path_type=Path, allow_dash=True),
        metavar="FILE",
        help="Answer each line of FILE: a JSON object with prompt or messages, and optionally id, max_tokens, "
        "temperature and other options; - is stdin.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path, allow_dash=True),
        metavar="FILE",
        help="Write the answers of --jsonl to FILE, after those that it has [stdout].",
    ),
    click.option(
        "--parallel",
        type=click.IntRange(min=1),
        metavar="N",
        help="Answers of --jsonl that are computed together [8, or what the engine holds].",
    ),
)


def batch_options(command: _Command) -> _Command:
    """Add the options of `_OPTIONS` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
