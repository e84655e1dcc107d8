"""Options that several commands share, and the engine that they open."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekiln.commands._engine import EngineArgument

if TYPE_CHECKING:
    from edgekiln.api import Engine
    from edgekiln.runtimes.base import KernelsChoice

_VERBOSE = "edgekiln.verbose"
# Variables that keep a library from printing; it reads them when it is imported.
_QUIET = {"TRANSFORMERS_VERBOSITY": "error", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def _verbose(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_VERBOSE] = True  # the contexts of the group and of the command share `meta`
    if ctx.parent is not None and not is_verbose(ctx):
        # Until the group's context ends, which it also does if another option of the command is wrong.
        ctx.find_root().with_resource(_quiet_libraries())


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep warnings and log lines of numpy, torch, transformers and others from stderr inside the block.

    What matters to the user is an error, or a note in a command's output.
    """
    import logging
    import warnings

    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # Instead of a filter: libraries add filters of their own while they are imported.
            warnings.showwarning = lambda *_args, **_keywords: None
            yield
    finally:
        logging.disable(disabled)


def _checked_threads(_ctx: click.Context, _param: click.Parameter, value: int | None) -> int | None:
    if value is None:
        return None
    from edgekiln.runtimes.threads import checked_threads  # imports numpy

    return checked_threads(value)


def is_verbose(ctx: click.Context) -> bool:
    """Whether --verbose was given, before or after the subcommand."""
    return bool(ctx.meta.get(_VERBOSE))


verbose_option = click.option(
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=_verbose,
    help="Show tracebacks, and warnings of the libraries.",
)


engine_argument = click.argument("engine", type=EngineArgument())
threads_option = click.option(
    "--threads",
    type=int,
    metavar="N",
    callback=_checked_threads,
    help="CPU threads [the performance cores that this process may use, within its CPU quota].",
)
# The choices are those of runtimes.base.KernelsChoice, whose module imports numpy.
kernels_option = click.option(
    "--kernels",
    type=click.Choice(["edgekiln", "onnxruntime"]),
    default="edgekiln",
    show_default=True,
    help="CPU kernels to run: edgekiln's, where they are built, or only ONNX Runtime's.",
)
pack_cache_option = click.option(
    "--pack-cache/--no-pack-cache",
    default=True,
    help="Keep packed weights in the directory packed-weights of a large engine, for faster starts  [default: keep].",
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print errors only, without steps, notes and summary.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def open_engine(
    path: Path, threads: int | None, kernels: "KernelsChoice" = "edgekiln", pack_cache: bool = True
) -> "Engine":
    """Load an engine, with a progress display; errors are those of `Engine.open`."""
    from edgekiln.api import Engine
    from edgekiln.commands._output import progress_report

    with progress_report() as report:
        report("loading engine", 0.0)
        return Engine.open(path, threads=threads, kernels=kernels, pack_cache=pack_cache)
