"""What makes error messages easier to read: the name that was meant, and no more text than a terminal shows."""

import re
from collections.abc import Iterable

import click

from edgekiln.arguments import closest

_LONGEST_WORD, _LONGEST = 200, 1000  # characters
_WORD = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")
_NOT_A_CHOICE = re.compile(r"'(.*)' is not one of ", re.DOTALL)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names the word most like `name`, with a space before it; "" where none is."""
    close = closest(name.lower(), known)
    return "" if close is None else f" Did you mean {close!r}?"


def choice_meant(error: click.UsageError) -> str:
    """The question for a value that is none of those that an option takes; "" for other errors."""
    choice = error.param.type if isinstance(error, click.BadParameter) and error.param is not None else None
    found = _NOT_A_CHOICE.match(error.message)
    if not isinstance(choice, click.Choice) or found is None:
        return ""
    return did_you_mean(found[1], map(str, choice.choices))


def option_instead(error: click.UsageError) -> str:
    """Where the prompt goes that `run` got as other programs take it; "" for other errors."""
    is_run = error.ctx is not None and error.ctx.command.name == "run"
    return ": give the prompt by -p" if is_run and "unexpected extra argument" in error.format_message() else ""


def shortened(message: str) -> str:
    """A message whose very long words, such as paths and values, and very long text are cut in the middle."""
    return _cut(_WORD.sub(lambda word: _cut(word[0], _LONGEST_WORD), message), _LONGEST)


def _cut(text: str, most: int) -> str:
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"
