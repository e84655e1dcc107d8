"""Options of `run` and `chat`: what to generate, and how each token is chosen."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgekiln.commands._text import Text

_Command = TypeVar("_Command", bound=Callable[..., Any])

# But for --stats, the names are those of `edgekiln.api_arguments.GenerateKeywords`.
_OPTIONS = (
    click.option(
        "--max-tokens",
        type=int,
        default=512,
        show_default=True,
        metavar="N",
        help="Tokens of an answer, at most.",
    ),
    click.option(
        "--temperature", type=float, metavar="T", help="0 takes the most likely token [the model's default, or 0]."
    ),
    click.option("--top-k", type=int, metavar="K", help="Sample from the K most likely tokens; 0 from all."),
    click.option(
        "--top-p", type=float, metavar="P", help="Sample from the most likely tokens with probability P together."
    ),
    click.option(
        "--min-p", type=float, metavar="P", help="Sample from tokens at least P times as likely as the most likely one."
    ),
    click.option(
        "--repetition-penalty", type=float, metavar="R", help="Above 1, tokens that occurred become less likely."
    ),
    click.option(
        "--presence-penalty", type=float, metavar="R", help="Above 0, tokens of the answer become less likely."
    ),
    click.option(
        "--frequency-penalty", type=float, metavar="R", help="Above 0, the same each time that a token occurs."
    ),
    click.option("--seed", type=int, metavar="N", help="The same seed gives the same answer."),
    click.option("--stop", type=Text(), multiple=True, metavar="TEXT", help="End before TEXT; may be repeated."),
    click.option(
        "--special-tokens",
        default="auto",
        show_default=True,
        metavar="[auto|show|hide]",
        help="Special tokens in the answer: all but bos, eos and pad; all; none.",
    ),
    click.option(
        "--speculate/--no-speculate",
        default=True,
        show_default=True,
        help="Draft tokens from repeated text and verify them together, where that is faster; the answer is the same.",
    ),
    click.option("--stats", is_flag=True, help="Print speeds on stderr."),
)


def generation_options(command: _Command) -> _Command:
    """Add the options of `_OPTIONS` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
