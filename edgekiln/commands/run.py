"""`edgekiln run`: one prompt, one answer."""

import sys
from pathlib import Path
from typing import Any

import click

from edgekiln.commands._answer import AnswerStats, write_answer
from edgekiln.commands._options.common import engine_argument, open_engine, threads_option, verbose_option
from edgekiln.commands._options.generation import generation_options
from edgekiln.commands._text import Text, read_text
from edgekiln.errors import RequestError


@click.command("run", short_help="Answer one prompt.")
@engine_argument
@click.option("-p", "--prompt", type=Text(), metavar="TEXT", help="The prompt; read from stdin without it.")
@click.option("--chat", is_flag=True, help="Format the prompt with the model's chat template.")
@generation_options
@threads_option
@verbose_option
def command(
    *,
    engine: Path,
    prompt: str | None,
    chat: bool,
    system: str | None,
    stats: bool,
    threads: int | None,
    **options: Any,
) -> None:
    """Continue a prompt with ENGINE; with --chat, answer it."""
    if system is not None and not chat:
        raise click.UsageError("--system goes with --chat")
    loaded = open_engine(engine, threads)
    loaded.check_options(**options)
    if prompt is None:
        prompt = _from_stdin()
    if not prompt:
        raise RequestError("prompt is empty: give some text")
    if chat:
        messages = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        ids = loaded.tokenizer.encode_chat(messages)
    else:
        ids = loaded.tokenizer.encode(prompt)

    from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats

    speed = AnswerStats(SpeculationStats(), len(ids))
    write_answer(loaded.generate(ids, speed.speculation, **options), speed)
    if stats:
        speed.show()


def _from_stdin() -> str:
    if sys.stdin.isatty():
        click.echo("Type the prompt and end it with Ctrl-D:", err=True)
    return read_text(None).removesuffix("\n")  # `echo` and Enter add it
