"""Output of the commands: JSON, progress, headings and tables."""

import contextlib
import json
import math
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from edgekiln.progress import no_progress

if TYPE_CHECKING:
    from rich.table import Table

    from edgekiln.progress import Progress


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on stdout. NaN and infinity, which JSON does not have, are written as null.

    Bytes of paths that are not UTF-8 are written as Python reads them, as escaped lone surrogates.
    """
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    click.echo(_LONE_SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def heading(text: str) -> None:
    """Print a line in bold."""
    click.secho(text, bold=True)


def print_table(table: "Table") -> None:
    """Print a rich table, as wide as the terminal, or without a limit into a pipe."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def print_notes(notes: Iterable[str], details: bool) -> None:
    """Print notes of a build on stderr: their first lines, with `details` all."""
    for note in notes:
        first, *more = note.split("\n")
        click.echo(f"note: {first}" + (" (--verbose lists them)" if more and not details else ""), err=True)
        for line in more if details else ():
            click.echo(f"  {line}", err=True)


@contextlib.contextmanager
def progress_report(animated: bool = True, lines: bool = False) -> Iterator["Progress"]:
    """Show a progress display on stderr, with the time that the current step still takes.

    Args:
        animated: redraw ten times a second; False redraws at reports only, which does not disturb a measurement.
        lines: where stderr is not a terminal, write a line for each step; otherwise nothing is shown there.

    Yields:
        `report(step, done)`: the step under way, and the share of it that is done, in [0, 1].
    """
    if sys.stderr is None or not sys.stderr.isatty():  # None: it was closed by the caller
        yield _write_steps() if lines else no_progress
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    left = TimeRemainingColumn(compact=True)
    columns = (
        *(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()),
        *(TextColumn("left"), left),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=animated) as display:
        current, task = "", TaskID(0)

        def report(step: str, done: float) -> None:
            nonlocal current, task
            if step != current:
                if current:
                    display.update(task, total=1.0, completed=1.0)  # a step need not report its end
                current, task = step, display.add_task(step, total=None)
            if done > 0:
                display.update(task, total=1.0, completed=done)
            if not animated:
                display.refresh()

        yield report


@contextlib.contextmanager
def no_steps() -> Iterator["Progress"]:
    """In place of `progress_report` where nothing is to be shown."""
    yield no_progress


def _write_steps() -> "Progress":
    """A `Progress` that writes a line on stderr when a step begins."""
    start, current = time.perf_counter(), ""

    def report(step: str, done: float) -> None:
        nonlocal current
        if step != current and done < 1:
            current = step
            click.echo(f"[{time.perf_counter() - start:6.1f} s] {step}", err=True)

    return report
