"""`edgekiln chat`: a conversation in the terminal."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from edgekiln.commands._options.common import engine_argument, threads_option, verbose_option
from edgekiln.commands._options.generation import Stats, generation_options, load, make_options, write_answer
from edgekiln.errors import RequestError

_HELP = "Ctrl-C stops an answer; /clear forgets the conversation; /exit or Ctrl-D leaves."


@click.command("chat", short_help="Talk with an engine.")
@engine_argument
@generation_options
@threads_option
@verbose_option
def command(
    *,
    engine: Path,
    system: str | None,
    max_tokens: int,
    stop: tuple[str, ...],
    speculate: bool,
    stats: bool,
    threads: int | None,
    **sampling: float | None,
) -> None:
    """Talk with ENGINE. Each line is a message; what was said before is remembered."""
    loaded = load(engine, threads)
    options = make_options(loaded.manifest, max_tokens, stop, speculate, **sampling)
    if not loaded.tokenizer.has_chat_template:
        raise RequestError(f"{engine} has no chat template: use `edgekiln run {engine}` with a plain prompt")

    from edgekiln.runtimes.generate.conversation import Conversation
    from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats

    conversation = Conversation(loaded.runtime, loaded.tokenizer, system)
    beginning = len(conversation.messages)
    with _Interrupts() as interrupts:
        for line in _lines(interrupts):
            if line == "/clear":
                del conversation.messages[beginning:]
                continue
            speed = Stats(SpeculationStats())
            interrupts.pressed = False
            try:
                write_answer(conversation.ask(line, options, speed.speculation), speed, lambda: interrupts.pressed)
            except RequestError as error:
                # Most likely the conversation has outgrown the engine; the program need not end for that.
                click.echo(f"Error: {error} (/clear begins a new conversation)", err=True)
                continue
            if stats:
                speed.show()


class _Interrupts:
    """Ctrl-C raises KeyboardInterrupt while a line is read, and is only noted at any other time.

    An answer is not torn out of the middle of a step: its cache is used again.
    """

    def __init__(self) -> None:
        self.pressed = False
        self.reading = False

    def __enter__(self) -> "_Interrupts":
        self._previous = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _press(self, _number: int, _frame: FrameType | None) -> None:
        self.pressed = True
        if self.reading:
            self.reading = False
            raise KeyboardInterrupt


def _lines(interrupts: _Interrupts) -> Iterator[str]:
    """Messages from stdin, with a prompt and line editing where it is a terminal; ends at Ctrl-D or /exit."""
    prompt = ""
    if sys.stdin.isatty():
        click.echo(_HELP, err=True)
        prompt = "> "
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  input() edits lines and remembers them once this is imported
    while True:
        try:
            interrupts.reading = True
            line = input(prompt).strip()
            interrupts.reading = False
        except EOFError:
            interrupts.reading = False
            if prompt:
                click.echo()
            return
        except KeyboardInterrupt:
            click.echo(f"\n{_HELP}", err=True)
            continue
        if line == "/exit":
            return
        if line:
            yield line
