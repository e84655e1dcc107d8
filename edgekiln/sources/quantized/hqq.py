"""Read HQQ checkpoints (Half-Quadratic Quantization, Badri and Shaji 2023).

A layer has W_q uint8, scale and zero, and its parameters as tensors of one value (nbits, group_size, axis) or of
characters (packing). W_q has the codes of a matrix [R, C], of which each byte holds those of 8 / bits equally large
parts of the rows, the first part in the upper bits. With axis 1 a row is a group of the weight's rows: [N * K /
group_size, group_size]; with axis 0 a column is one: [group_size, N * K / group_size]. w = (code - zero) * scale with
a zero point that is a float, which becomes a group bias.
"""

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.errors import UnsupportedModelError
from edgekiln.sources.quantized.grid import (
    DequantizedTensor,
    Floats,
    QuantizedLayer,
    Tensors,
    array,
    damaged,
    engine_group,
    stems,
)

_SUFFIX = ".W_q"
_NEEDED = ("scale", "zero", "shape", "nbits", "axis")
_OTHER = (
    "group_size",
    "packing",
    "unpack_view_dtype",
    "view_as_float",
    "quant_scale",
    "quant_zero",
    "compute_dtype",
    "offload_meta",
    "encoded_state_dict",
    "stores_quant_config",
    "channel_wise",
    "optimize",
    "round_zero",
)
_BITS = (1, 2, 4, 8)
_MATRIX = 2


class HqqConfig(BaseModel):
    """The fields of a quantization_config that are read; each layer has its own parameters."""

    quant_method: Literal["hqq"]


def find_layers(
    tensors: Tensors, names: Iterable[str], _config: HqqConfig
) -> dict[str, QuantizedLayer | DequantizedTensor]:
    """Find the quantized layers among the tensors `names`.

    Args:
        tensors: the checkpoint.
        names: of all its tensors.
        _config: its quantization_config; not needed.

    Returns:
        The weights by name.

    Raises:
        SourceError: tensors of a layer are missing, or their shapes or values contradict each other.
        UnsupportedModelError: 3 bits, codes that are stored as floats, or a group size that is no multiple of 32.
    """
    known = set(names)
    return {f"{name}.weight": _layer(tensors, name, known) for name in stems(known, _SUFFIX)}


def _layer(tensors: Tensors, name: str, known: set[str]) -> QuantizedLayer | DequantizedTensor:
    if missing := [part for part in _NEEDED if f"{name}.{part}" not in known]:
        raise damaged(name, f"it has no {missing[0]}")
    parts = tuple(part for kind in ("W_q", *_NEEDED, *_OTHER) if (part := f"{name}.{kind}") in known)
    bits, axis = (_number(tensors, f"{name}.{part}", name) for part in ("nbits", "axis"))
    if bits not in _BITS or tensors.dtype(name + _SUFFIX) != "U8":
        raise UnsupportedModelError(
            f"{name} has HQQ codes of {bits} bits in {tensors.dtype(name + _SUFFIX)}, which cannot be read yet (can: "
            f"{', '.join(map(str, _BITS))} bits in U8): give the unquantized checkpoint"
        )
    shape = array(tensors, f"{name}.shape").tolist()
    scale_shape = tensors.shape(f"{name}.scale")
    if (
        axis not in (0, 1)
        or not isinstance(shape, list)
        or len(shape) != _MATRIX
        or min(shape) < 1
        or len(scale_shape) != _MATRIX
        or scale_shape != tensors.shape(f"{name}.zero")
        or scale_shape[axis] != 1
        or math.prod(tensors.shape(name + _SUFFIX)) * 8 != math.prod(shape) * bits
        or math.prod(shape) % math.prod(scale_shape)
    ):
        raise damaged(name, "the shapes of its W_q, scale and zero do not fit each other")
    n, k = shape
    groups = math.prod(scale_shape)
    group_size = n * k // groups
    whole = (groups, group_size) if axis else (group_size, groups)
    if whole[0] * bits % 8:
        raise damaged(name, f"its codes of {bits} bits do not fill the bytes of {whole[0]} rows")

    def codes() -> npt.NDArray[np.uint8]:
        raw = array(tensors, name + _SUFFIX).reshape(-1, whole[1])
        return np.concatenate([raw >> shift & (1 << bits) - 1 for shift in range(8 - bits, -1, -bits)])

    def parameters() -> tuple[Floats, Floats]:
        return array(tensors, f"{name}.scale"), array(tensors, f"{name}.zero")

    if axis == 0 or k % group_size:

        def read() -> Floats:
            scale, zero = parameters()
            return np.asarray((codes() - zero) * scale, dtype=np.float32).reshape(n, k)

        return DequantizedTensor(parts, (n, k), f"HQQ groups along axis {axis}", read)
    size = engine_group(group_size, k, bits, name)
    scheme = Scheme(8 if bits == max(_BITS) else 4, size, symmetric=True, activation="none", group_bias=True)

    def weight() -> QuantizedWeight:
        scale, zero = (np.repeat(values.reshape(n, -1), group_size // size, axis=1) for values in parameters())
        bias = np.asarray(((1 << scheme.bits - 1) - zero.astype(np.float64)) * scale, dtype=np.float32)
        return QuantizedWeight(
            scheme, codes().reshape(n, k), scale, None, relative_error=0.0, clipped=0.0, group_bias=bias
        )

    return QuantizedLayer(parts, (n, k), PrequantizedWeight(scheme, weight))


def _number(tensors: Tensors, part: str, name: str) -> int:
    values = array(tensors, part)
    if values.size != 1 or values.dtype.kind not in "iu":
        raise damaged(name, f"{part} is {values.dtype} of shape {list(values.shape)}, not one integer")
    return int(values.item())
