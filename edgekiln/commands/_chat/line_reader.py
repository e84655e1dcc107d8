"""The lines of a chat: typed in a terminal, or from a pipe."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from edgekiln.commands._text import BYTE_ORDER_MARK

_HELP = "Ctrl-C stops an answer; /help lists commands; /exit or Ctrl-D leaves."


class Interrupts:
    """Ctrl-C raises KeyboardInterrupt while a line is read; at any other time it only sets `pressed`.

    An answer is stopped between two decode steps, so that the KV cache stays consistent for the next turn. SIGTERM and
    SIGHUP end the program as an exception does, so that the terminal is left as it was.
    """

    def __init__(self) -> None:
        self.pressed = False
        self.reading = False

    def __enter__(self) -> "Interrupts":
        self._previous = {signal.SIGINT: signal.signal(signal.SIGINT, self._press)}
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                self._previous[number] = signal.signal(number, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _press(self, _number: int, _frame: FrameType | None) -> None:
        self.pressed = True
        if self.reading:
            self.reading = False
            raise KeyboardInterrupt

    def _end(self, number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)


def is_terminal() -> bool:
    """Whether a user types messages and reads the answers in a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def lines(interrupts: Interrupts, history: Path | None) -> Iterator[str]:
    """The lines that are not blank, until Ctrl-D or the end of stdin. In a terminal, one may have several lines.

    Args:
        interrupts: of the chat.
        history: file of messages that were typed before; used in a terminal only.
    """
    read = _reader(history)
    first = True
    while True:
        try:
            interrupts.reading = True
            line = read()
            interrupts.reading = False
        except EOFError:
            interrupts.reading = False
            if sys.stdin.isatty() and not is_terminal():
                click.echo(err=True)
            return
        except KeyboardInterrupt:
            interrupts.reading = False
            click.echo(f"\n{_HELP}" if not is_terminal() else _HELP, err=True)
            continue
        if first:
            line = line.removeprefix(BYTE_ORDER_MARK)
            first = False
        if line.strip():
            yield line.rstrip()


def _reader(history: Path | None) -> Callable[[], str]:
    if sys.stdin.isatty():
        click.echo(_HELP, err=True)
    if not is_terminal():
        return _read_plain
    from edgekiln.commands._chat.terminal import terminal_reader

    return terminal_reader(history).prompt


def _read_plain() -> str:
    if sys.stdin.isatty():
        click.echo("> ", nl=False, err=True)
    return input("")


@contextlib.contextmanager
def input_dropped() -> Iterator[None]:
    """Keep what is typed in this block off the screen, and drop it at its end. Keys that send signals work."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(file, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcflush(file, termios.TCIFLUSH)
        termios.tcsetattr(file, termios.TCSANOW, before)
