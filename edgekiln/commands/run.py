"""`edgekiln run`: one prompt and one answer, or a file of them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekiln.commands._answer import AnswerStats, write_answer
from edgekiln.commands._options.batch import batch_options
from edgekiln.commands._options.chat import chat_keywords, chat_options
from edgekiln.commands._options.common import (
    engine_argument,
    json_option,
    open_engine,
    pack_cache_option,
    threads_option,
    verbose_option,
)
from edgekiln.commands._options.generation import generation_options
from edgekiln.commands._options.grammar import grammar_keywords, grammar_options
from edgekiln.commands._output import print_json
from edgekiln.commands._text import Text, read_prompt
from edgekiln.errors import RequestError

if TYPE_CHECKING:
    from edgekiln.api import Engine
    from edgekiln.runtimes.base import Ids

_OPTION_NAMES = {
    "system": "--system",
    "tools": "--tools",
    "template_variables": "--template-var",
    "chat_template": "--chat-template",
    "parse_special": "--parse-special",
}


@click.command("run", short_help="Answer one prompt, or a file of them.")
@engine_argument
@click.option("-p", "--prompt", type=Text(), metavar="TEXT", help="The prompt; read from stdin without it.")
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Read the prompt from FILE; - is stdin.",
)
@click.option("--chat", is_flag=True, help="Format the prompt with the model's chat template.")
@json_option
@batch_options
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
    file: Path | None,
    chat: bool,
    as_json: bool,
    jsonl: Path | None,
    out: Path | None,
    parallel: int | None,
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
    _check_sources({"--prompt": prompt, "--file": file, "--jsonl": jsonl})
    if jsonl is None:
        for name, value in (("--out", out), ("--parallel", parallel)):
            if value is not None:
                raise click.UsageError(f"{name} goes with --jsonl")
        if not chat:
            for name in [*(["system"] if system is not None else []), *keywords]:
                raise click.UsageError(f"{_OPTION_NAMES[name]} goes with --chat")
    elif as_json:
        raise click.UsageError("--json does not go with --jsonl, whose answers are JSON")
    options |= grammar_keywords(schema_file, grammar_file, regex)
    loaded = open_engine(engine, threads, pack_cache=pack_cache)
    loaded.check_options(**options, **keywords)
    if jsonl is not None:
        from edgekiln.commands._batch import answer_lines

        answer_lines(loaded, jsonl, out, parallel, stats, chat, system, {**options, **keywords})
        return
    ids = _prompt_ids(loaded, _prompt(prompt, file), chat, system, keywords)

    from edgekiln.engine.reports import step_weight_bytes
    from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats

    speed = AnswerStats(SpeculationStats(), len(ids), step_weight_bytes(engine), options["max_tokens"])
    tokens = loaded.generate(ids, speed.speculation, **options)
    if as_json:
        for token in tokens:
            speed.add(token)
        print_json(_as_json(speed))
        speed.show_cut()
    else:
        write_answer(tokens, speed)
    if not chat and loaded.tokenizer.has_chat_template and not any(token.text for token in speed.tokens):
        click.secho("[no text: --chat makes a message of the prompt, which the model answers]", dim=True, err=True)
    if stats:
        speed.show()


def _check_sources(sources: dict[str, object]) -> None:
    given = [name for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} do not go together")


def _prompt(prompt: str | None, file: Path | None) -> str:
    if prompt is None:
        path = None if file is None or str(file) == "-" else file
        if path is None and sys.stdin.isatty():
            click.echo("Type the prompt and end it with Ctrl-D:", err=True)
        prompt = read_prompt(path)
    prompt = prompt.removesuffix("\r")  # that "$(cat FILE)" leaves of CRLF
    if not prompt:
        raise RequestError("prompt is empty: give some text")
    return prompt


def _prompt_ids(engine: "Engine", prompt: str, chat: bool, system: str | None, keywords: dict[str, Any]) -> "Ids":
    longest = engine.runtime.properties.max_length
    if not chat:
        return engine.tokenizer.encode(prompt, max_tokens=longest)
    from edgekiln.runtimes.text.tools.prompt import chat_ids

    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return chat_ids(engine.tokenizer, messages, max_tokens=longest, **keywords)


def _as_json(speed: AnswerStats) -> dict[str, Any]:
    prompt, answer = speed.prompt_tokens or 0, len(speed.tokens)
    return {
        "text": "".join(token.text for token in speed.tokens),
        "finish_reason": speed.finish_reason,
        "cut": speed.cut,
        "tokens": [token.id for token in speed.tokens],
        "usage": {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer},
        "timings": speed.timings(),
        "speculation": {"drafted": speed.speculation.drafted, "accepted": speed.speculation.accepted},
    }
