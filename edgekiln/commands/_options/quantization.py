"""Options of `engine` and `quantize`: how the weights are quantized."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgekiln.calib.data.options import FEW_WINDOWS, MANY_WINDOWS, DataOptions
from edgekiln.calib.formats.scheme import GROUP_SIZES
from edgekiln.calib.limits import Limits
from edgekiln.calib.presets import PRESETS
from edgekiln.calib.quantizers.base import METHODS, QUANTIZERS
from edgekiln.calib.recipe import read_recipe
from edgekiln.errors import RequestError
from edgekiln.extras import requires_extra
from edgekiln.pipeline.options import BuildOptions

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--quant",
        type=click.Choice(tuple(PRESETS)),
        default="int8",
        show_default=True,
        help="int8: weights and activations. int4: weights. none: float32. docs/quantization.md describes the others.",
    ),
    click.option(
        "--recipe",
        "recipe_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="YAML file with the scheme of each layer and a method, in place of --quant. Methods: "
        + "; ".join(f"{name}: {QUANTIZERS[name].summary}" for name in METHODS)
        + ".",
    ),
    click.option(
        "--group-size",
        type=click.Choice(GROUP_SIZES),
        help="Consecutive inputs that share a scale, in 4-bit presets [32].",
    ),
    click.option(
        "--calib-data",
        metavar="DATA",
        help="Calibration data: text file, JSONL of texts or messages, or a data set's name [synthetic data].",
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
        help="Promote layers to 8 bits until perplexity increases by no more than this [mixed: 1].",
    ),
    click.option(
        "--max-kl",
        type=float,
        metavar="NATS",
        help="Promote layers to 8 bits until the KL divergence from float32 is no more than this.",
    ),
    click.option("--strict", is_flag=True, help="Fail if more than 5% of the parameters would stay in floating point."),
)


def quantization_options(command: _Command) -> _Command:
    """Add the options of `_OPTIONS` to a command, which passes them to `build_options`."""
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
    """Build options from the command line's; `others` are further fields of BuildOptions.

    Raises:
        RequestError: an option out of range, options that contradict each other, or a damaged recipe file.
    """
    recipe = None
    if recipe_file is not None:
        if group_size is not None:
            raise RequestError("--group-size does not go with --recipe: write group_size in the file")
        with requires_extra("export"):
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
