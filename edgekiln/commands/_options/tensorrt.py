"""Options of `edgekiln engine` for the targets trt and trt-rtx."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from edgekiln.calib.tensorrt.options import CacheLayout, HalfType, TensorRTOptions, parse_capabilities

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--sm", metavar="LIST", help="trt-rtx: compute capabilities to compile for [80,86,89,120]."),
    click.option(
        "--cache",
        type=click.Choice(get_args(CacheLayout)),
        default=TensorRTOptions.cache,
        show_default=True,
        help="TensorRT: KV cache updated in place, or appended to, which older versions need.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(get_args(HalfType)),
        default=TensorRTOptions.dtype,
        show_default=True,
        help="TensorRT: data type of activations, KV cache and float weights.",
    ),
    click.option(
        "--max-batch",
        type=click.IntRange(min=1),
        default=TensorRTOptions.max_batch,
        show_default=True,
        metavar="N",
        help="TensorRT: sequences of a batch, at most.",
    ),
    click.option(
        "--chunk",
        type=click.IntRange(min=1),
        default=TensorRTOptions.chunk,
        show_default=True,
        metavar="N",
        help="TensorRT: prompt tokens of one prefill run, at most.",
    ),
    click.option(
        "--workspace",
        "workspace_mb",
        type=click.IntRange(min=1),
        metavar="MB",
        help="TensorRT: memory for intermediate tensors, at most.",
    ),
    click.option(
        "--timing-cache",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="trt: file of kernel timings, read before and written after compiling.",
    ),
    click.option("--version-compatible", is_flag=True, help="trt: the plan also runs with later minor versions."),
    click.option("--hardware-compatible", is_flag=True, help="trt: the plan runs on every GPU since Ampere."),
    click.option(
        "--strip-weights",
        is_flag=True,
        help="TensorRT: leave the weights out of the plan; they are added when it is loaded.",
    ),
    click.option("--refit", is_flag=True, help="TensorRT: allow the weights of the plan to be replaced."),
)


def tensorrt_options(command: _Command) -> _Command:
    """Add the options of `_OPTIONS` to a command, which passes its arguments to `split_tensorrt_options`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def split_tensorrt_options(arguments: dict[str, Any]) -> tuple[TensorRTOptions, dict[str, Any]]:
    """Split a command's arguments into the TensorRT options and the rest.

    Raises:
        RequestError: a value out of range.
    """
    rest = dict(arguments)
    sm = rest.pop("sm")
    own = {field.name: rest.pop(field.name) for field in fields(TensorRTOptions) if field.name != "capabilities"}
    return TensorRTOptions(capabilities=parse_capabilities(sm) if sm is not None else None, **own), rest
