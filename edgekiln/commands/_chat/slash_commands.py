"""The commands of a chat: lines that begin with a slash."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgekiln.arguments import closest
from edgekiln.errors import RequestError

if TYPE_CHECKING:
    from edgekiln.session import Session

# What the chat does after a command.
Outcome = Literal["go on", "regenerate", "leave"]

# A path, such as /etc/hosts, is no command.
_COMMAND = re.compile(r"/([^\s/]+|(?=\s*$))(?:\s+(.*?))?\s*", re.DOTALL)


@dataclass(frozen=True)
class SlashCommand:
    """A command of a chat.

    Attributes:
        name: without the slash.
        argument: what follows the name, in brackets where it may be left out; "" where nothing does.
        summary: what it does.
        run: the command itself, with its argument; raises RequestError.
        others: further names.
    """

    name: str
    argument: str
    summary: str
    run: "Callable[[Session, str], Outcome]"
    others: tuple[str, ...] = ()


def parse(line: str) -> tuple[str, str] | None:
    """Name, in lower case, and argument of a command; None where a line is a message."""
    found = _COMMAND.fullmatch(line)
    return None if found is None else (found[1].lower(), found[2] or "")


def run(session: "Session", name: str, argument: str) -> Outcome:
    """Run a command, which writes to stderr.

    Args:
        session: the conversation.
        name, argument: as `parse` returns them.

    Raises:
        RequestError: there is no such command, or it cannot do what it should.
    """
    command = _BY_NAME.get(name)
    if command is None:
        close = closest(name, _BY_NAME)
        hint = "/help lists those that there are" if close is None else f"did you mean /{close}?"
        raise RequestError(f"there is no command /{name:.40}: {hint} (a space before it sends it as a message)")
    if argument and not command.argument:
        raise RequestError(f"/{name} takes nothing after it, got {argument!r:.60}")
    if not argument and command.argument and not command.argument.startswith("["):
        raise RequestError(f"/{name} needs a {command.argument}, as in /{name} {command.argument}")
    return command.run(session, argument)


def names() -> list[str]:
    """Names of the commands, with the slash."""
    return [f"/{name}" for name in _BY_NAME if name.isalpha()]


def _help(_session: "Session", _argument: str) -> Outcome:
    width = max(len(f"{each.name} {each.argument}") for each in COMMANDS) + 3
    for each in COMMANDS:
        usage = f"/{each.name} {each.argument}".rstrip()
        click.echo(f"{usage:<{width}} {each.summary}", err=True)
    click.echo(
        "Ctrl-C stops an answer. Alt-Enter begins a new line of a message. A space before / sends a line as a message.",
        err=True,
    )
    return "go on"


def _clear(session: "Session", _argument: str) -> Outcome:
    session.clear()
    return "go on"


def _system(session: "Session", argument: str) -> Outcome:
    if argument:
        session.system = None if argument == '""' else argument
    else:
        click.echo("There is no system message." if session.system is None else session.system, err=True)
    return "go on"


def _save(session: "Session", argument: str) -> Outcome:
    session.save_messages(_path(argument))
    click.echo(f"{_messages(session)} saved.", err=True)
    return "go on"


def _load(session: "Session", argument: str) -> Outcome:
    session.load_messages(_path(argument))
    click.echo(f"{_messages(session)} loaded.", err=True)
    return "go on"


def _messages(session: "Session") -> str:
    return f"{len(session.messages)} message{'' if len(session.messages) == 1 else 's'}"


def _path(text: str) -> Path:
    if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise RequestError(f"{text:.60} has no home directory: give another path") from error


COMMANDS = (
    SlashCommand("help", "", "show this list", _help, ("?",)),
    SlashCommand("clear", "", "forget the conversation, but for the system message", _clear),
    SlashCommand("system", "[TEXT]", 'show the system message, or set it; "" removes it', _system),
    SlashCommand("save", "FILE", "write the messages as JSON", _save),
    SlashCommand("load", "FILE", "go on with messages that were saved", _load),
    SlashCommand("regen", "", "answer the last message again", lambda _session, _argument: "regenerate"),
    SlashCommand(
        "exit", "", "leave, as do /quit, /bye and Ctrl-D", lambda _session, _argument: "leave", ("quit", "bye")
    ),
)
_BY_NAME = {name: command for command in COMMANDS for name in (command.name, *command.others)}
