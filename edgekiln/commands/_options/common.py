"""Options that several commands share, and the engine that they open."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgekiln.api import Engine
    from edgekiln.runtimes.base import KernelsChoice

_VERBOSE = "edgekiln.verbose"


def _remember_verbose(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_VERBOSE] = True  # the contexts of the group and of the command share `meta`


def _checked_threads(_ctx: click.Context, _param: click.Parameter, value: int | None) -> int | None:
    if value is None:
        return None
    from edgekiln.runtimes.threads import checked_threads  # imports numpy

    return checked_threads(value)


def is_verbose(ctx: click.Context) -> bool:
    """Whether --verbose was given, before or after the subcommand."""
    return bool(ctx.meta.get(_VERBOSE))


verbose_option = click.option(
    "--verbose", is_flag=True, expose_value=False, callback=_remember_verbose, help="Show tracebacks."
)
engine_argument = click.argument("engine", type=click.Path(path_type=Path))
threads_option = click.option(
    "--threads",
    type=int,
    metavar="N",
    callback=_checked_threads,
    help="CPU threads [the physical cores that this process may use, within its CPU quota].",
)
# The choices are those of runtimes.base.KernelsChoice, whose module imports numpy.
kernels_option = click.option(
    "--kernels",
    type=click.Choice(["edgekiln", "onnxruntime"]),
    default="edgekiln",
    show_default=True,
    help="CPU kernels to run: edgekiln's, where they are built, or only ONNX Runtime's.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def quiet_libraries() -> None:
    """Keep the warnings of torch, transformers and onnxscript from stderr, unless --verbose was given."""
    import logging
    import os
    import warnings

    if is_verbose(click.get_current_context()):
        return
    logging.basicConfig(level=logging.ERROR)
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def open_engine(path: Path, threads: int | None, kernels: "KernelsChoice" = "edgekiln") -> "Engine":
    """Load an engine, with a progress display; errors are those of `Engine.open`."""
    from edgekiln.api import Engine
    from edgekiln.commands._output import progress_report

    with progress_report() as report:
        report("loading engine", 0.0)
        return Engine.open(path, threads=threads, kernels=kernels)
