"""Options of `edgekiln engine` that only TensorRT's targets have."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from edgekiln.calib.tensorrt.options import CacheKind, HalfType, TensorRTOptions, parse_capabilities

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--sm", metavar="LIST", help="trt-rtx: compute capabilities to compile for [80,86,89,120]."),
    click.option(
        "--cache",
        type=click.Choice(get_args(CacheKind)),
        default=TensorRTOptions.cache,
        show_default=True,
        help="TensorRT: keys and values updated in place, or appended, which older versions need.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(get_args(HalfType)),
        default=TensorRTOptions.dtype,
        show_default=True,
        help="TensorRT: type of activations, cache and float weights.",
    ),
    click.option(
        "--max-batch",
        type=click.IntRange(min=1),
        default=TensorRTOptions.max_batch,
        show_default=True,
        metavar="N",
        help="TensorRT: sequences that are generated together, at most.",
    ),
    click.option(
        "--chunk",
        type=click.IntRange(min=1),
        default=TensorRTOptions.chunk,
        show_default=True,
        metavar="N",
        help="TensorRT: prompt tokens taken at once, at most.",
    ),
    click.option(
        "--workspace",
        "workspace_mb",
        type=click.IntRange(min=1),
        metavar="MB",
        help="TensorRT: memory for intermediate values, at most.",
    ),
    click.option(
        "--timing-cache",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="trt: kernel timings to read, and to write after.",
    ),
    click.option("--version-compatible", is_flag=True, help="trt: the plan runs in later minor versions too."),
    click.option("--hardware-compatible", is_flag=True, help="trt: the plan runs on every GPU from Ampere on."),
    click.option("--strip-weights", is_flag=True, help="TensorRT: keep weights out of the plan; loading puts them in."),
    click.option("--refit", is_flag=True, help="TensorRT: let weights of the finished plan be replaced."),
)


def tensorrt_options(command: _Command) -> _Command:
    """Add the options of `_OPTIONS` to a command, which takes them out with `taken_tensorrt_options`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def taken_tensorrt_options(arguments: dict[str, Any]) -> tuple[TensorRTOptions, dict[str, Any]]:
    """Those options as one object, and the arguments without them.

    Raises:
        RequestError: a value out of its range.
    """
    rest = dict(arguments)
    sm = rest.pop("sm")
    own = {field.name: rest.pop(field.name) for field in fields(TensorRTOptions) if field.name != "capabilities"}
    return TensorRTOptions(capabilities=parse_capabilities(sm) if sm is not None else None, **own), rest
