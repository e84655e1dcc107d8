"""Read FP8 checkpoints: DeepSeek's, with scales of blocks or of tensors, and fbgemm's, with scales of channels.

DeepSeek: beside a weight [N, K] in FP8 there is weight_scale_inv, which is multiplied in spite of its name: float [N /
128, K / 128] with the last blocks cut off, or one value. Experts that are stacked have [E, N, K] and a name without
".weight". Experts may also be FP4, two codes in each int8. fbgemm: weight_scale is float [N, 1].

The grid of FP8 is no multiple of a step, so engines cannot keep it: weights are read as float32. FP4 with scales of 32
columns is MXFP4, which is kept.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy.typing as npt
from pydantic import BaseModel, PositiveInt

from edgekiln.sources.quantized.block_scales import (
    FP4_VALUES,
    FP8_DTYPES,
    block_size,
    fp4_codes,
    kept_fp4,
    multiply_blocks,
    scales_of,
)
from edgekiln.sources.quantized.grid import DequantizedTensor, Floats, QuantizedLayer, Tensors, array, as_array, damaged
from edgekiln.sources.quantized.mxfp4 import GROUP, NOTE

_MATRIX = 2


class Fp8Config(BaseModel):
    """The fields of DeepSeek's quantization_config that are read; activations are quantized as the recipe says.

    Attributes:
        weight_block_size: rows and columns of a block; None for scales of tensors.
    """

    quant_method: Literal["fp8"]
    weight_block_size: tuple[PositiveInt, PositiveInt] | None = None

    @property
    def suffix(self) -> str:
        """What the name of a scale has after the name of its weight."""
        return "_scale_inv"


class FbgemmFp8Config(BaseModel):
    """The fields of fbgemm's quantization_config that are read."""

    quant_method: Literal["fbgemm_fp8"]
    weight_block_size: None = None

    @property
    def suffix(self) -> str:
        """What the name of a scale has after the name of its weight."""
        return "_scale"


def find_layers(
    tensors: Tensors, names: Iterable[str], config: Fp8Config | FbgemmFp8Config
) -> dict[str, QuantizedLayer | DequantizedTensor]:
    """Find the quantized weights among the tensors `names`.

    Args:
        tensors: the checkpoint.
        names: of all its tensors.
        config: its quantization_config.

    Returns:
        The weights by name.

    Raises:
        SourceError: a weight in FP8 has no scales, or scales of a shape that does not fit.
    """
    known = set(names)
    found: dict[str, QuantizedLayer | DequantizedTensor] = {}
    for name in known:
        packed = tensors.dtype(name) == "I8" and f"{name}{config.suffix}" in known
        if packed or tensors.dtype(name) in FP8_DTYPES:
            found[name] = _weight(tensors, name, known, config, packed)
    return found


def _weight(
    tensors: Tensors, name: str, known: set[str], config: Fp8Config | FbgemmFp8Config, packed: bool
) -> QuantizedLayer | DequantizedTensor:
    scale = f"{name}{config.suffix}"
    if scale not in known:
        raise damaged(name, f"it is {tensors.dtype(name)} and has no scales {scale}")
    stored = tensors.shape(name)
    if len(stored) < _MATRIX or 0 in stored:
        raise damaged(name, f"it has the shape {list(stored)}, not that of a matrix")
    shape = (*stored[:-1], stored[-1] * 2) if packed else stored
    size = block_size(shape, tensors.shape(scale), [config.weight_block_size] if config.weight_block_size else [], name)

    def read() -> Floats:
        return multiply(array(tensors, name), scales_of(tensors, scale))

    def read_expert(index: int) -> Floats:
        one_for_all = tensors.shape(scale)[:1] != shape[:1]
        return multiply(
            as_array(tensors.read_expert(name, index)), scales_of(tensors, scale, None if one_for_all else index)
        )

    def multiply(values: npt.NDArray[Any], scales: Floats) -> Floats:
        return multiply_blocks(FP4_VALUES[fp4_codes(values)] if packed else values, scales, size, name)

    stem = name.removesuffix("weight") if name.endswith(".weight") else f"{name}_"
    activations = [part for kind in ("activation_scale", "input_scale") if (part := f"{stem}{kind}") in known]
    parts = (name, scale, *activations)
    if packed and len(shape) == _MATRIX and size == (1, GROUP):
        return QuantizedLayer(
            parts, shape, kept_fp4(GROUP, lambda: (fp4_codes(array(tensors, name)), scales_of(tensors, scale)), NOTE)
        )
    stacked = read_expert if len(shape) > _MATRIX else None
    return DequantizedTensor(parts, shape, "FP4" if packed else "FP8", read, stacked)
