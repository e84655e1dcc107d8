"""Read compressed-tensors checkpoints (llm-compressor). Weights of floats of 8 or 4 bits: `compressed_floats`.

Integers, packed: weight_packed int32 [N, K * bits / 32] packs codes along K, weight_zero_point int32 [N * bits / 32, G]
packs zero points along N (absent if symmetric), weight_shape is [2], and weight_g_idx [K] is there with act-order (-1:
none). Not packed: weight int8 [N, K] and weight_zero_point int8. weight_scale is [N, G], [N, 1], or one value for the
tensor, whose zero point is one int8 value in both. Codes are signed; packed codes have an offset of 2^(bits - 1).

The engine's recipe decides how activations are quantized, not the checkpoint. Its static activation scale, input_scale
float [1], is kept for recipes with static activation scales, unless it has a zero point.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, PositiveInt

from edgekiln.errors import UnsupportedModelError
from edgekiln.sources.quantized import compressed_floats
from edgekiln.sources.quantized.block_scales import FP8_DTYPES
from edgekiln.sources.quantized.grid import (
    DequantizedTensor,
    Groups,
    QuantizedLayer,
    Tensors,
    array,
    channels,
    column_order,
    damaged,
    engine_group,
    grouped,
    matrix_shape,
    unpack,
    words_of,
)

_PACKED, _SCALE = ".weight_packed", ".weight_scale"
_PARTS = ("weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
_ACTIVATION_PARTS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")


class _Weights(BaseModel):
    num_bits: int
    type: str = "int"
    strategy: str | None = None
    block_structure: tuple[PositiveInt, PositiveInt] | None = None


class _Group(BaseModel):
    weights: _Weights | None = None
    format: str | None = None


class CompressedTensorsConfig(BaseModel):
    """The fields of a quantization_config that are read; bits and group size are derived from the tensors."""

    quant_method: Literal["compressed-tensors"] = "compressed-tensors"
    format: str
    quantization_status: Literal["compressed"] = "compressed"
    config_groups: dict[str, _Group]
    sparsity_config: dict[str, Any] = Field(default_factory=dict)
    transform_config: dict[str, Any] = Field(default_factory=dict)


_STRATEGIES = (None, "tensor", "channel", "group", "block", "tensor_group")
_INTEGER_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "mixed-precision")
_FLOAT_FORMATS = ("float-quantized", "mxfp8-quantized", "mxfp4-pack-quantized", "nvfp4-pack-quantized")
_FORMATS = (*_INTEGER_FORMATS, *_FLOAT_FORMATS)


def find_layers(
    tensors: Tensors, names: Iterable[str], config: CompressedTensorsConfig
) -> dict[str, QuantizedLayer | DequantizedTensor]:
    """Find the quantized layers among the tensors `names`.

    Args:
        tensors: the checkpoint.
        names: of all its tensors.
        config: its quantization_config.

    Returns:
        The weights by name.

    Raises:
        SourceError: tensors of a layer are missing, or their shapes or values contradict each other.
        UnsupportedModelError: the format, type, bits or group size cannot be kept.
    """
    _check(config)
    known = set(names)
    weights = [group.weights for group in config.config_groups.values() if group.weights is not None]
    blocks = [entry.block_structure for entry in weights if entry.block_structure is not None]
    # Once each: packed weights have scales as well.
    modules = {
        name.rpartition(".")[0]
        for name in known
        if name.endswith((_PACKED, _SCALE)) or (name.endswith(".weight") and tensors.dtype(name) in FP8_DTYPES)
    }
    return {
        f"{module}.weight": compressed_floats.find_layer(tensors, module, known, blocks)
        if compressed_floats.is_float(tensors, module, known)
        else (_packed if f"{module}{_PACKED}" in known else _plain)(tensors, module, known)
        for module in modules
    }


def _check(config: CompressedTensorsConfig) -> None:
    problem = None
    for group in config.config_groups.values():
        if group.weights is not None and (
            group.weights.type not in ("int", "float") or group.weights.num_bits not in (4, 8)
        ):
            problem = f"{group.weights.num_bits}-bit weights of type {group.weights.type}"
        elif group.weights is not None and group.weights.strategy not in _STRATEGIES:
            problem = f"the strategy {group.weights.strategy}"
        if group.format not in (None, *_FORMATS):
            problem = f"the format {group.format}"
    if config.format not in _FORMATS:
        problem = f"the format {config.format}"
    if config.sparsity_config.get("format", "dense") != "dense":
        problem = f"the sparsity format {config.sparsity_config['format']}"
    if config.transform_config.get("config_groups"):
        problem = "transforms of the activations (transform_config)"
    if problem:
        raise UnsupportedModelError(
            f"{problem} of compressed-tensors cannot be carried, only integers and floats of 4 or 8 bits: "
            "give the unquantized checkpoint"
        )


def _parts(name: str, known: set[str], first: str) -> tuple[str, ...]:
    kinds = (first, *_PARTS, *_ACTIVATION_PARTS)
    return tuple(part for kind in kinds if (part := f"{name}.{kind}") in known)


def _packed(tensors: Tensors, name: str, known: set[str]) -> QuantizedLayer:
    parts = _parts(name, known, "weight_packed")
    scale, shape, zeros = (f"{name}.{kind}" for kind in ("weight_scale", "weight_shape", "weight_zero_point"))
    if scale not in parts or shape not in parts:
        raise damaged(name, "it has no weight_scale or no weight_shape")
    if tensors.shape(shape) != (2,):
        raise damaged(name, f"its weight_shape has {list(tensors.shape(shape))} elements, not 2")
    n, k = (int(size) for size in array(tensors, shape))
    rows, words = matrix_shape(tensors, name + _PACKED, name)
    bits = next((bits for bits in (4, 8) if -(-k * bits // 32) == words), 0)
    groups = _groups(tensors.shape(scale), n)
    if rows != n or not bits or not groups or k % groups:
        raise damaged(name, "the shapes of its weight_packed, weight_scale and weight_shape do not fit each other")
    per_tensor = _is_one_value(tensors.shape(scale))
    if zeros in parts and not (
        _is_one_value(tensors.shape(zeros)) if per_tensor else (tensors.shape(zeros) == (-(-n * bits // 32), groups))
    ):
        raise damaged(name, "the shapes of its weight_scale and weight_zero_point do not fit each other")
    group_size = k // groups
    order = _order(tensors, parts, name, group_size)

    def zero_points() -> npt.NDArray[np.uint8]:
        if per_tensor:
            return _shifted(array(tensors, zeros), n, 1, 1 << bits - 1)
        return unpack(words_of(tensors, zeros, name).T, bits).T[:n]

    symmetric = zeros not in parts or bool((zero_points() == 1 << bits - 1).all())

    def read() -> Groups:
        codes = unpack(words_of(tensors, name + _PACKED, name), bits)[:, :k]
        scales = _per_row(array(tensors, scale), n, groups)
        return Groups(codes if order is None else codes[:, order], scales, None if symmetric else zero_points())

    weight = grouped(bits, engine_group(group_size, k, bits, name), symmetric, read, order)
    return QuantizedLayer(parts, (n, k), weight)


def _plain(tensors: Tensors, name: str, known: set[str]) -> QuantizedLayer:
    parts = _parts(name, known, "weight")
    weight, scale, zeros = (f"{name}.{kind}" for kind in ("weight", "weight_scale", "weight_zero_point"))
    if weight not in parts:
        raise damaged(name, "it has a weight_scale and no weight")
    n, k = matrix_shape(tensors, weight, name)
    groups = _groups(tensors.shape(scale), n)
    if not groups or k % groups or (zeros in parts and _groups(tensors.shape(zeros), n) not in (1, groups)):
        raise damaged(name, "the shapes of its weight, weight_scale and weight_zero_point do not fit each other")
    group_size = k // groups
    order = _order(tensors, parts, name, group_size)

    def codes() -> npt.NDArray[np.int8]:
        values = array(tensors, weight)
        if values.dtype != np.int8:
            raise damaged(name, f"its weight is {values.dtype}, not int8")
        return values

    def scales() -> npt.NDArray[np.float32]:
        return _per_row(array(tensors, scale), n, groups)

    symmetric = zeros not in parts or not array(tensors, zeros).any()
    if groups == 1 and symmetric and order is None:
        read_channels = partial(_channels, codes, scales)
        return QuantizedLayer(parts, (n, k), channels(k, name, read_channels, _input_scale(tensors, parts, name)))

    def read() -> Groups:
        shifted = codes().view(np.uint8) ^ np.uint8(0x80)
        zero_points = None if symmetric else _shifted(array(tensors, zeros), n, groups, 0x80)
        return Groups(shifted if order is None else shifted[:, order], scales(), zero_points)

    grid = grouped(8, engine_group(group_size, k, 8, name), symmetric, read, order)
    return QuantizedLayer(parts, (n, k), grid)


def _channels(
    codes: Callable[[], npt.NDArray[np.int8]], scales: Callable[[], npt.NDArray[np.float32]]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    return codes(), np.ascontiguousarray(scales()[:, 0])


def _input_scale(tensors: Tensors, parts: tuple[str, ...], name: str) -> Callable[[], float] | None:
    """Reads the static scale of the layer's input; None if there is none, or if it has a zero point."""
    part = f"{name}.input_scale"
    if part not in parts or f"{name}.input_zero_point" in parts or not _is_one_value(tensors.shape(part)):
        return None
    return lambda: float(array(tensors, part).item())


def _is_one_value(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) == 1


def _groups(shape: tuple[int, ...], n: int) -> int:
    """Groups a row of scales or zero points of this shape; 0 if it is not that of a weight with `n` rows."""
    if _is_one_value(shape) or shape == (n,):
        return 1
    return shape[1] if len(shape) == 2 and shape[0] == n else 0


def _per_row(values: npt.NDArray[Any], n: int, groups: int) -> npt.NDArray[Any]:
    """Scales or zero points of a tensor, of channels or of groups as [N, G]."""
    return np.broadcast_to(values.reshape(1 if values.size == 1 else n, -1), (n, groups))


def _shifted(zero_points: npt.NDArray[Any], n: int, groups: int, middle: int) -> npt.NDArray[np.uint8]:
    """Signed zero points as uint8 [N, G], for codes with an offset of `middle`."""
    return (_per_row(zero_points, n, groups).astype(np.int16) + middle).astype(np.uint8)


def _order(tensors: Tensors, parts: tuple[str, ...], name: str, group_size: int) -> npt.NDArray[np.int64] | None:
    """The act-order permutation; None without one, which weight_g_idx says with -1."""
    part = f"{name}.weight_g_idx"
    if part not in parts or ((groups := array(tensors, part)) < 0).any():
        return None
    return column_order(groups, group_size, name)
