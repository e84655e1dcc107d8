"""`edgekiln run`: one prompt, one answer."""

import sys
from pathlib import Path

import click

from edgekiln.commands._options.common import Text, engine_argument, read_text, threads_option, verbose_option
from edgekiln.commands._options.generation import Stats, generation_options, load, make_options, write_answer
from edgekiln.errors import RequestError


@click.command("run", short_help="Answer one prompt.")
@engine_argument
@click.option("-p", "--prompt", type=Text(), metavar="TEXT", help="The prompt; read from stdin without it.")
@click.option("--chat", is_flag=True, help="Put the prompt in the model's chat template.")
@generation_options
@threads_option
@verbose_option
def command(
    *,
    engine: Path,
    prompt: str | None,
    chat: bool,
    system: str | None,
    max_tokens: int,
    stop: tuple[str, ...],
    speculate: bool,
    stats: bool,
    threads: int | None,
    **sampling: float | None,
) -> None:
    """Continue a prompt with ENGINE, or with --chat answer it."""
    if system is not None and not chat:
        raise click.UsageError("--system goes with --chat")
    loaded = load(engine, threads)
    options = make_options(loaded.manifest, max_tokens, stop, speculate, **sampling)
    if prompt is None:
        prompt = _from_stdin()
    if not prompt:
        raise RequestError("prompt is empty: give one with -p TEXT or on stdin")
    if chat:
        messages = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        ids = loaded.tokenizer.encode_chat(messages)
    else:
        ids = loaded.tokenizer.encode(prompt)

    from edgekiln.runtimes.generate.generate import generate
    from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats

    speed = Stats(SpeculationStats(), len(ids))
    write_answer(generate(loaded.runtime, loaded.tokenizer, [ids], options, None, speed.speculation), speed)
    if stats:
        speed.show()


def _from_stdin() -> str:
    if sys.stdin.isatty():
        click.echo("Type the prompt and end it with Ctrl-D:", err=True)
    return read_text(None).removesuffix("\n")  # what `echo` adds is not meant
