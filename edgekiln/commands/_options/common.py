"""Options and output that several commands share."""

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekiln.errors import EdgekilnError, RequestError

if TYPE_CHECKING:
    from edgekiln.runtimes.base import KernelsChoice, Runtime

_VERBOSE = "edgekiln.verbose"


def _remember_verbose(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_VERBOSE] = True  # meta is shared by a group's context and its command's


def is_verbose(ctx: click.Context) -> bool:
    """Whether --verbose was given, to the group or to the command."""
    return bool(ctx.meta.get(_VERBOSE))


class Text(click.ParamType):
    """Text that tokenizers take: an argument may hold bytes that are not UTF-8."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The value itself; a usage error where it is not UTF-8."""
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            self.fail("the text is not UTF-8", param, ctx)
        return value


verbose_option = click.option(
    "--verbose", is_flag=True, expose_value=False, callback=_remember_verbose, help="Show tracebacks."
)
engine_argument = click.argument("engine", type=click.Path(path_type=Path))
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads; all that this process may use by default."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Say which extra to install where an import in the block fails.

    Raises:
        EdgekilnError: a module of another distribution is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "edgekiln":
            raise
        raise EdgekilnError(f"{error.name} is not installed: `pip install 'edgekiln[{name}]'`") from error


def quiet_libraries() -> None:
    """Keep the remarks of torch, transformers and onnxscript from stderr, unless --verbose was given."""
    import logging
    import os
    import warnings

    if is_verbose(click.get_current_context()):
        return
    logging.basicConfig(level=logging.ERROR)
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def open_runtime(engine: Path, threads: int | None, kernels: "KernelsChoice" = "edgekiln") -> "Runtime":
    """Load an engine, with `runtimes.open`; raises EdgekilnError in one sentence."""
    from edgekiln import runtimes

    with progress_report() as report:
        report("loading engine", 0.0)
        return runtimes.open(engine, threads=threads, kernels=kernels)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout; infinity and NaN, which JSON has not and a broken engine can reach, are null."""
    click.echo(json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_text(path: Path | None) -> str:
    """A UTF-8 file's text, stdin's where `path` is None, with its line ends as they are.

    Raises:
        RequestError: it is not UTF-8.
        OSError: it cannot be read.
    """
    data = sys.stdin.buffer.read() if path is None else path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path or 'stdin'} is not UTF-8 text (byte {error.start}): convert it first") from error


@contextlib.contextmanager
def progress_report(animated: bool = True) -> Iterator[Callable[[str, float], None]]:
    """A rich progress display on stderr, nothing where that is no terminal.

    Args:
        animated: redraw ten times a second; otherwise only at a report, which leaves a measurement alone.

    Yields:
        `report(step, done)`: the step under way and the share of it that is done, in [0, 1].
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
                    display.update(task, total=1.0, completed=1.0)  # not every step tells its end
                current, task = step, display.add_task(step, total=None)
            if done > 0:
                display.update(task, total=1.0, completed=done)
            if not animated:
                display.refresh()

        yield report
