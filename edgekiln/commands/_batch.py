"""`edgekiln run --jsonl`: answer the lines of a file, with a progress bar on a terminal."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekiln.batch_file import BatchCounts, BatchProgress, answer_file
from edgekiln.batch_requests import RequestFile
from edgekiln.errors import RequestError

if TYPE_CHECKING:
    from edgekiln.api import Engine


def answer_lines(
    engine: "Engine",
    jsonl: Path,
    out: Path | None,
    parallel: int | None,
    stats: bool,
    chat: bool,
    system: str | None,
    options: dict[str, Any],
) -> None:
    """Answer each line of a file; `-` is stdin, and stdout.

    Args:
        engine: the engine.
        jsonl, out: the files of requests and answers.
        parallel: answers that are computed together.
        stats: print the speed on stderr.
        chat, system: see `RequestFile.requests`.
        options: keyword arguments of `Engine.generate_batch`.

    Raises:
        RequestError: as in `Engine.generate_file`; or, at the end, some lines had no answer.
    """
    source = RequestFile.stdin() if str(jsonl) == "-" else RequestFile.open(jsonl)
    target = None if out is None or str(out) == "-" else out
    start = time.perf_counter()
    with _progress(to_stdout=target is None) as progress:
        answered = 0

        def report(done: int, total: int) -> None:
            nonlocal answered
            answered = done
            progress(done, total)

        try:
            counts = answer_file(engine, source, target, parallel, report, options, chat=chat, system=system)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            if target is not None and answered:
                click.echo(f"{answered} answers are in {target}: the same command goes on after them", err=True)
            raise
    _summarize(counts, target, time.perf_counter() - start, stats)
    if counts.empty and not chat and engine.tokenizer.has_chat_template:
        click.echo(f"{counts.empty} of {counts.total} answers are empty: --chat makes messages of prompts", err=True)
    if counts.errors:
        raise RequestError(f"{counts.errors} of {counts.total} requests have no answer: their lines say why in `error`")


def _summarize(counts: BatchCounts, out: Path | None, seconds: float, stats: bool) -> None:
    if counts.kept:
        click.echo(f"{out} had {counts.kept} of {counts.total} answers, which were kept", err=True)
    if counts.cut:
        click.echo(f"{counts.cut} of {counts.total} answers were cut: they have the finish_reason length", err=True)
    if stats:
        tokens = counts.completion_tokens
        click.echo(
            f"{counts.total - counts.kept} requests in {seconds:.1f} s; prompts {counts.prompt_tokens} tokens; "
            f"answers {tokens} tokens, {tokens / seconds:.1f} tokens/s",
            err=True,
        )


@contextlib.contextmanager
def _progress(to_stdout: bool) -> Iterator[BatchProgress]:
    """A progress bar on stderr where that is a terminal which does not show the answers, too."""
    if not sys.stderr.isatty() or (to_stdout and sys.stdout.isatty()):
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("answering"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("", total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)
