"""`edgekiln run`: one prompt, one answer."""

import sys
from pathlib import Path
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
from edgekiln.commands._options.grammar import grammar_keywords, grammar_options
from edgekiln.commands._text import Text, read_text
from edgekiln.errors import RequestError

_OPTION_NAMES = {
    "system": "--system",
    "tools": "--tools",
    "template_variables": "--template-var",
    "chat_template": "--chat-template",
    "parse_special": "--parse-special",
}


@click.command("run", short_help="Answer one prompt.")
@engine_argument
@click.option("-p", "--prompt", type=Text(), metavar="TEXT", help="The prompt; read from stdin without it.")
@click.option("--chat", is_flag=True, help="Format the prompt with the model's chat template.")
@chat_options
@generation_options
@grammar_options
@pack_cache_option
@threads_option
@verbose_option
def command(
    *,
    engine: Path,
    prompt: str | None,
    chat: bool,
    system: str | None,
    tools_file: Path | None,
    template_variables: tuple[tuple[str, Any], ...],
    chat_template: str | None,
    parse_special: bool,
    schema_file: Path | None,
    grammar_file: Path | None,
    regex: str | None,
    stats: bool,
    pack_cache: bool,
    threads: int | None,
    **options: Any,
) -> None:
    """Continue a prompt with ENGINE; with --chat, answer it."""
    keywords = chat_keywords(tools_file, template_variables, chat_template, parse_special)
    if not chat:
        for name in [*(["system"] if system is not None else []), *keywords]:
            raise click.UsageError(f"{_OPTION_NAMES[name]} goes with --chat")
    options |= grammar_keywords(schema_file, grammar_file, regex)
    loaded = open_engine(engine, threads, pack_cache=pack_cache)
    loaded.check_options(**options, **keywords)
    if prompt is None:
        prompt = _from_stdin()
    if not prompt:
        raise RequestError("prompt is empty: give some text")
    longest = loaded.runtime.properties.max_length
    if chat:
        messages = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        ids = loaded.tokenizer.encode_chat(messages, max_tokens=longest, **keywords)
    else:
        ids = loaded.tokenizer.encode(prompt, max_tokens=longest)

    from edgekiln.engine.reports import step_weight_bytes
    from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats

    speed = AnswerStats(SpeculationStats(), len(ids), step_weight_bytes(engine))
    write_answer(loaded.generate(ids, speed.speculation, **options), speed)
    if stats:
        speed.show()


def _from_stdin() -> str:
    if sys.stdin.isatty():
        click.echo("Type the prompt and end it with Ctrl-D:", err=True)
    return read_text(None).removesuffix("\n")  # `echo` and Enter add it
