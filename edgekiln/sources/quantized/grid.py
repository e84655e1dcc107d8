"""From a checkpoint's grid to the grids that engines have."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.scheme import GROUP_SIZES, Scheme
from edgekiln.calib.formats.weight import Codes, QuantizedWeight
from edgekiln.errors import SourceError, UnsupportedModelError

Floats = npt.NDArray[np.float32]


class Tensors(Protocol):
    """The tensors of a checkpoint by the names they are stored under."""

    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str) -> torch.Tensor: ...


@dataclass(frozen=True)
class QuantizedLayer:
    """A weight [N, K] that stands in a checkpoint as several tensors.

    Attributes:
        parts: the names of those, all of them.
        shape: (N, K).
        stored: the weight.
    """

    parts: tuple[str, ...]
    shape: tuple[int, int]
    stored: PrequantizedWeight


def array(tensors: Tensors, name: str) -> npt.NDArray[Any]:
    """A stored tensor in numpy, any float type as float32."""
    tensor = tensors.read(name)
    return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()


def unpack(words: npt.NDArray[np.int32] | npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint8]:
    """The codes in int32 [..., W], lowest bits first: uint8 [..., W * 32 / bits]."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(*words.shape[:-1], -1)


def engine_group(group_size: int, name: str) -> int:
    """The largest group of engines that divides a checkpoint's, whose scale is then repeated.

    Raises:
        UnsupportedModelError: none does.
    """
    for size in sorted(GROUP_SIZES, reverse=True):
        if group_size % size == 0:
            return size
    raise UnsupportedModelError(
        f"{name} is quantized in groups of {group_size}, engines have groups of {GROUP_SIZES[0]} and multiples: "
        "give the unquantized checkpoint"
    )


@dataclass(frozen=True)
class Groups:
    """A weight as a checkpoint has it: `scale * (code - zero point)`, groups along the columns in `order`.

    Attributes:
        codes: uint8 [N, K], column order[j] of the weight at j.
        scales: [N, G].
        zero_points: [N, G]; None where all are the middle code.
        order: int64 [K]; None where the columns are in order.
    """

    codes: npt.NDArray[np.uint8]
    scales: Floats
    zero_points: npt.NDArray[np.uint8] | None = None
    order: npt.NDArray[np.int64] | None = None


def grouped(
    bits: int, group_size: int, symmetric: bool, ordered: bool, read: Callable[[], Groups]
) -> PrequantizedWeight:
    """A weight in groups of `group_size`, one of the engines' own or a multiple of it in the checkpoint."""
    scheme = Scheme(bits, group_size, symmetric, "none", ordered=ordered)

    def weight() -> QuantizedWeight:
        groups = read()
        return QuantizedWeight(
            scheme=scheme,
            codes=groups.codes,
            scales=_repeated(groups.scales, groups.codes, group_size),
            zero_points=None if symmetric else _repeated(groups.zero_points, groups.codes, group_size),
            relative_error=0.0,
            clipped=0.0,
            order=groups.order,
        )

    return PrequantizedWeight(scheme, weight)


def channels(
    columns: int,
    name: str,
    read: Callable[[], tuple[npt.NDArray[np.int8], Floats]],
    input_scale: Callable[[], float] | None = None,
) -> PrequantizedWeight:
    """int8 [N, K] with a scale a row: for layers with int8 activations as it is, else in groups that repeat the scale.

    A layer that is to have a static input keeps `input_scale` where there is one.

    Raises:
        UnsupportedModelError: no group size divides the columns.
    """
    scheme = Scheme(8, None, True, "int8-per-token")

    def weight() -> QuantizedWeight:
        codes, scales = read()
        return QuantizedWeight(scheme, codes, scales, None, relative_error=0.0, clipped=0.0)

    def shifted() -> Groups:
        codes, scales = read()
        return Groups(codes.view(np.uint8) ^ np.uint8(0x80), scales[:, None])

    others = [grouped(8, engine_group(columns, name), symmetric=True, ordered=False, read=shifted)]
    if input_scale is not None:
        static = replace(scheme, activation="int8-static")
        others.append(PrequantizedWeight(static, lambda: replace(weight(), scheme=static, input_scale=input_scale())))
    return PrequantizedWeight(scheme, weight, others=tuple(others))


def column_order(groups: npt.NDArray[Any], group_size: int, name: str) -> npt.NDArray[np.int64] | None:
    """The order that brings columns, column k in group groups[k], into consecutive groups; None if they are already.

    Raises:
        UnsupportedModelError: the groups are not all of `group_size`.
    """
    regular = np.arange(len(groups)) // group_size
    if np.array_equal(groups, regular):
        return None
    order = np.argsort(groups, kind="stable")
    if not np.array_equal(groups[order], regular):
        raise UnsupportedModelError(
            f"{name} has groups that are not all of {group_size} columns, which engines cannot carry: "
            "give the unquantized checkpoint"
        )
    return order.astype(np.int64)


def damaged(name: str, why: str) -> SourceError:
    """The error for tensors that contradict each other."""
    return SourceError(f"{name} is damaged: {why}; download the checkpoint again")


def _repeated(values: npt.NDArray[Any] | None, codes: Codes, group_size: int) -> npt.NDArray[Any]:
    assert values is not None
    return np.repeat(values, codes.shape[1] // values.shape[1] // group_size, axis=1)
