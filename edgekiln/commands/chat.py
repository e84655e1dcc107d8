"""`edgekiln chat`: a conversation in the terminal."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from edgekiln.commands._answer import AnswerStats, write_answer
from edgekiln.commands._options.chat import chat_keywords, chat_options
from edgekiln.commands._options.common import (
    engine_argument,
    open_engine,
    pack_cache_option,
    threads_option,
    verbose_option,
)
from edgekiln.commands._options.generation import generation_options
from edgekiln.errors import RequestError

_HELP = "Ctrl-C stops an answer; /clear forgets the conversation; /exit or Ctrl-D leaves."


@click.command("chat", short_help="Talk with an engine.")
@engine_argument
@chat_options
@generation_options
@pack_cache_option
@threads_option
@verbose_option
def command(
    *,
    engine: Path,
    system: str | None,
    tools_file: Path | None,
    template_variables: tuple[tuple[str, Any], ...],
    chat_template: str | None,
    parse_special: bool,
    stats: bool,
    pack_cache: bool,
    threads: int | None,
    **options: Any,
) -> None:
    """Talk with ENGINE. Each line is a message; the conversation so far is part of the prompt."""
    options |= chat_keywords(tools_file, template_variables, chat_template, parse_special)
    loaded = open_engine(engine, threads, pack_cache=pack_cache)
    loaded.check_options(**options)
    if not loaded.tokenizer.has_chat_template:
        raise RequestError(f"{engine} has no chat template: use `edgekiln run {engine}` with a plain prompt")

    from edgekiln.engine.reports import step_weight_bytes
    from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats

    session = loaded.session(system)
    beginning = len(session.messages)
    weight_bytes = step_weight_bytes(engine)
    with _Interrupts() as interrupts:
        for line in _lines(interrupts):
            if line == "/clear":
                del session.messages[beginning:]
                continue
            speed = AnswerStats(SpeculationStats(), step_weight_bytes=weight_bytes)
            interrupts.pressed = False
            try:
                write_answer(session.ask(line, speed.speculation, **options), speed, lambda: interrupts.pressed)
            except RequestError as error:
                # Most likely the conversation is too long for the engine; /clear helps, so the program continues.
                click.echo(f"Error: {error} (/clear begins a new conversation)", err=True)
                continue
            if stats:
                speed.show()


class _Interrupts:
    """Ctrl-C raises KeyboardInterrupt while a line is read; at any other time it only sets `pressed`.

    An answer is stopped between two decode steps, so that the KV cache stays consistent for the next turn.
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
    """Messages from stdin, with a prompt and line editing on a terminal; ends at Ctrl-D or /exit."""
    prompt = ""
    if sys.stdin.isatty():
        click.echo(_HELP, err=True)
        prompt = "> "
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() line editing and history
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
