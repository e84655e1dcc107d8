"""`edgekiln chat`: a conversation in the terminal."""

import contextlib
import os
from pathlib import Path
from typing import Any

import click

from edgekiln.commands._answer import AnswerStats, write_answer
from edgekiln.commands._chat.history import history_file
from edgekiln.commands._chat.line_reader import Interrupts, input_dropped, lines
from edgekiln.commands._chat.slash_commands import parse, run
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


@click.command("chat", short_help="Talk with an engine.")
@engine_argument
@chat_options
@generation_options
@click.option(
    "--history/--no-history",
    default=None,
    help="Keep what you type for later chats  [default: keep, unless EDGEKILN_NO_HISTORY is set].",
)
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
    history: bool | None,
    pack_cache: bool,
    threads: int | None,
    **options: Any,
) -> None:
    """Talk with ENGINE. Each line is a message; the conversation so far is part of the prompt. /help lists commands."""
    options |= chat_keywords(tools_file, template_variables, chat_template, parse_special)
    loaded = open_engine(engine, threads, pack_cache=pack_cache)
    loaded.check_options(**options)
    if not loaded.tokenizer.has_chat_template:
        raise RequestError(f"{engine} has no chat template: use `edgekiln run {engine}` with a plain prompt")

    from edgekiln.engine.reports import step_weight_bytes
    from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats

    session = loaded.session(system, **options)
    weight_bytes = step_weight_bytes(engine)
    with Interrupts() as interrupts:
        for line in lines(interrupts, history_file(history, os.environ)):
            parsed = parse(line)
            speed = AnswerStats(SpeculationStats(), None, weight_bytes, options["max_tokens"])
            interrupts.pressed = False
            try:
                outcome = "ask" if parsed is None else run(session, *parsed)
                if outcome == "leave":
                    return
                if outcome == "go on":
                    continue
                if outcome == "ask":
                    tokens = session.ask(line.strip(), speed.speculation)
                else:
                    tokens = session.regenerate(speed.speculation)
                with contextlib.closing(tokens), input_dropped():
                    write_answer(tokens, speed, lambda: interrupts.pressed)
            except RequestError as error:
                # Of a message, most likely: the conversation is too long for the engine; /clear helps.
                hint = " (/clear begins a new conversation)" if parsed is None else ""
                click.echo(f"Error: {error}{hint}", err=True)
                continue
            if stats:
                speed.show()
