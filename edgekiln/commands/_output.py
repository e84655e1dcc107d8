"""Output of the commands: JSON, progress, headings and tables."""

import contextlib
import json
import math
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

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


@contextlib.contextmanager
def progress_report(animated: bool = True) -> Iterator["Progress"]:
    """Show a progress display on stderr; nothing where stderr is not a terminal.

    Args:
        animated: redraw ten times a second; False redraws at reports only, which does not disturb a measurement.

    Yields:
        `report(step, done)`: the step under way, and the share of it that is done, in [0, 1].
    """
    if not sys.stderr.isatty():
        yield lambda _step, _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
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
