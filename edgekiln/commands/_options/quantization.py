"""What `engine` and `quantize` share: how the weights are quantized, and being stopped."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click

from edgekiln.calib.data.options import FEW_WINDOWS, MANY_WINDOWS, DataOptions
from edgekiln.calib.formats.scheme import GROUP_SIZES
from edgekiln.calib.limits import Limits
from edgekiln.calib.presets import PRESETS
from edgekiln.calib.recipe import read_recipe
from edgekiln.commands._options.common import extra
from edgekiln.errors import RequestError
from edgekiln.pipeline.options import BuildOptions

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--quant",
        type=click.Choice(tuple(PRESETS)),
        default="int8",
        show_default=True,
        help="int8: weights and activations. int4: weights. none: float32. docs/quality.md tells the others apart.",
    ),
    click.option(
        "--recipe",
        "recipe_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="YAML that says what each layer gets, in place of --quant.",
    ),
    click.option(
        "--group-size",
        type=click.Choice(GROUP_SIZES),
        help="Weights that share a scale in the presets of 4 bits [32].",
    ),
    click.option(
        "--calib-data",
        metavar="DATA",
        help="Text file, JSONL of texts or messages, or a data set's name [text that the model writes].",
    ),
    click.option(
        "--calib-samples",
        type=click.IntRange(min=1),
        metavar="N",
        help=f"Windows of calibration data, at most [int8: {FEW_WINDOWS}, else {MANY_WINDOWS}].",
    ),
    click.option(
        "--calib-length",
        type=click.IntRange(min=2),
        default=DataOptions.length,
        show_default=True,
        metavar="N",
        help="Tokens of a window.",
    ),
    click.option(
        "--max-ppl-increase",
        type=float,
        metavar="PERCENT",
        help="Raise layers to 8 bits until perplexity rises by no more [mixed: 1].",
    ),
    click.option("--max-kl", type=float, metavar="NATS", help="The same until the predictions differ by no more."),
)


def quantization_options(command: _Command) -> _Command:
    """Add the options of `_OPTIONS` to a command, which hands them to `build_options`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def build_options(
    *,
    quant: str,
    recipe_file: Path | None,
    group_size: int | None,
    calib_data: str | None,
    calib_samples: int | None,
    calib_length: int,
    max_ppl_increase: float | None,
    max_kl: float | None,
    **others: Any,
) -> BuildOptions:
    """The options as one value; `others` are more fields of BuildOptions.

    Raises:
        RequestError: options or a recipe file that make no sense.
    """
    recipe = None
    if recipe_file is not None:
        if group_size is not None:
            raise RequestError("--group-size does not go with --recipe: write group_size in the file")
        with extra("export"):
            recipe = read_recipe(recipe_file)
        quant = recipe_file.stem
    return BuildOptions(
        quant=quant,
        group_size=group_size,
        recipe=recipe,
        data=DataOptions(calib_data, calib_samples, calib_length),
        limits=Limits(max_ppl_increase, max_kl),
        **others,
    )


@contextlib.contextmanager
def stopped_once() -> Iterator[None]:
    """End the block, and with it the program, on the first SIGINT or SIGTERM.

    Later ones are ignored, so that what is half made is removed and the exit status is the first one's.
    """
    stopped = False

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        nonlocal stopped
        stopped = True
        for each in previous:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        if not stopped:
            for number, handler in previous.items():
                signal.signal(number, handler)
