"""Read weights of compressed-tensors that are floats of 8 or 4 bits: FP8, MXFP8, MXFP4 and NVFP4.

FP8: weight E4M3 [N, K], and weight_scale of the tensor [1], of channels [N, 1], of groups [N, K / group size] or of
blocks [N / 128, K / 128]. MXFP8: weight_scale uint8 [N, K / 32] in E8M0. MXFP4: weight_packed uint8 [N, K / 2] with two
codes in a byte, low nibble first, and weight_scale likewise. NVFP4: weight_packed, weight_scale E4M3 [N, K / 16] and
weight_global_scale [1], by which the others are divided.
"""

from collections.abc import Iterable

import numpy as np

from edgekiln.errors import UnsupportedModelError
from edgekiln.sources.quantized import mxfp4
from edgekiln.sources.quantized.block_scales import (
    FP4_VALUES,
    FP8_DTYPES,
    block_size,
    fp4_codes,
    kept_fp4,
    multiply_blocks,
    scales_of,
)
from edgekiln.sources.quantized.grid import (
    DequantizedTensor,
    Floats,
    QuantizedLayer,
    Tensors,
    array,
    damaged,
    matrix_shape,
)

_ACTIVATIONS = ("input_scale", "input_global_scale", "output_scale")
_NVFP4_GROUP = 16


def is_float(tensors: Tensors, name: str, known: set[str]) -> bool:
    """Whether the module `name` has a weight of floats of 8 or 4 bits."""
    weight, packed = f"{name}.weight", f"{name}.weight_packed"
    return (packed in known and tensors.dtype(packed) == "U8") or (
        weight in known and tensors.dtype(weight) in FP8_DTYPES
    )


def find_layer(
    tensors: Tensors, name: str, known: set[str], blocks: Iterable[tuple[int, int]]
) -> QuantizedLayer | DequantizedTensor:
    """The weight of a module for which `is_float` holds.

    Args:
        tensors: the checkpoint.
        name: of the module.
        known: names of all tensors.
        blocks: sizes of blocks that the quantization_config names.

    Raises:
        SourceError: tensors are missing, or their shapes or values contradict each other.
        UnsupportedModelError: the weight has zero points.
    """
    scale = f"{name}.weight_scale"
    if scale not in known:
        raise damaged(name, "it has a weight of floats of 8 or 4 bits and no weight_scale")
    if f"{name}.weight_zero_point" in known and array(tensors, f"{name}.weight_zero_point").any():
        raise UnsupportedModelError(
            f"{name} has floats with a zero point, which cannot be read yet: give the unquantized checkpoint"
        )
    packed = f"{name}.weight_packed" in known
    first = f"{name}.weight_packed" if packed else f"{name}.weight"
    kinds = ("weight_scale", "weight_global_scale", "weight_zero_point", *_ACTIVATIONS)
    parts = (first, *(part for kind in kinds if (part := f"{name}.{kind}") in known))
    n, k = matrix_shape(tensors, first, name)
    if packed:
        return _packed(tensors, name, parts, (n, k * 2))
    size = block_size((n, k), tensors.shape(scale), blocks, name)

    def read() -> Floats:
        return multiply_blocks(array(tensors, first), scales_of(tensors, scale), size, name)

    form = "MXFP8" if tensors.dtype(scale) in ("U8", "F8_E8M0") else "FP8"
    return DequantizedTensor(parts, (n, k), form, read)


def _packed(
    tensors: Tensors, name: str, parts: tuple[str, ...], shape: tuple[int, int]
) -> QuantizedLayer | DequantizedTensor:
    """A weight in MXFP4 or NVFP4, which is kept where kernels can multiply it: they take 32 columns at a time."""
    packed, scale, whole = (f"{name}.{part}" for part in ("weight_packed", "weight_scale", "weight_global_scale"))
    n, k = shape
    group = _NVFP4_GROUP if whole in parts else mxfp4.GROUP
    if tensors.shape(scale) != (n, k // group) or k % group:
        raise damaged(name, f"the shapes of its weight_packed and weight_scale do not fit groups of {group}")
    if whole not in parts:
        if tensors.dtype(scale) != "U8":
            raise damaged(name, f"{scale} is {tensors.dtype(scale)}, not the exponents of MXFP4")
        return QuantizedLayer(
            parts, shape, kept_fp4(group, lambda: (fp4_codes(array(tensors, packed)), scales_of(tensors, scale)))
        )
    if tensors.shape(whole) not in ((), (1,)):
        raise damaged(name, f"{whole} has the shape {list(tensors.shape(whole))}, not that of one value")

    def scales() -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return scales_of(tensors, scale) / array(tensors, whole)

    def read() -> Floats:
        return multiply_blocks(FP4_VALUES[fp4_codes(array(tensors, packed))], scales(), (1, group), name)

    if k % mxfp4.GROUP == 0:
        return QuantizedLayer(parts, shape, kept_fp4(group, lambda: (fp4_codes(array(tensors, packed)), scales())))
    return DequantizedTensor(parts, shape, "NVFP4", read)
