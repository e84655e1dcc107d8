"""Read compressed-tensors checkpoints (llm-compressor) with integer weights, packed or not.

Packed: weight_packed int32 [N, K * bits / 32] packs codes along K, weight_scale is [N, G], weight_zero_point int32
[N * bits / 32, G] packs zero points along N (absent if symmetric), weight_shape is [2], and weight_g_idx [K] is there
with act-order. Not packed: weight int8 [N, K], and weight_scale [N, 1], [N, G] or [1]. Codes are signed; packed codes
are stored with an offset of 2^(bits - 1).

The engine's recipe decides how activations are quantized, not the checkpoint. Its static activation scale, input_scale
float [1], is kept for recipes with static activation scales, unless it has a zero point.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.errors import UnsupportedModelError
from edgekiln.sources.quantized.grid import (
    Groups,
    QuantizedLayer,
    Tensors,
    array,
    channels,
    column_order,
    damaged,
    engine_group,
    grouped,
    unpack,
)

_PACKED, _SCALE = ".weight_packed", ".weight_scale"
_PARTS = ("weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
_ACTIVATION_PARTS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")


class _Weights(BaseModel):
    num_bits: int
    type: str = "int"


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


_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "mixed-precision")


def find_layers(tensors: Tensors, names: Iterable[str], config: CompressedTensorsConfig) -> dict[str, QuantizedLayer]:
    """Find the quantized layers among the tensors `names`.

    Args:
        tensors: the checkpoint.
        names: of all its tensors.
        config: its quantization_config.

    Returns:
        The layers by module name.

    Raises:
        SourceError: tensors of a layer are missing, or their shapes or values contradict each other.
        UnsupportedModelError: the format, type, bits or group size cannot be kept.
    """
    _check(config)
    known = set(names)
    found = {}
    for name in known:
        if name.endswith(_PACKED):
            module = name.removesuffix(_PACKED)
            found[module] = _packed(tensors, module, known)
        elif name.endswith(_SCALE) and f"{name.removesuffix(_SCALE)}{_PACKED}" not in known:
            module = name.removesuffix(_SCALE)
            found[module] = _plain(tensors, module, known)
    return found


def _check(config: CompressedTensorsConfig) -> None:
    problem = None
    for group in config.config_groups.values():
        if group.weights is not None and (group.weights.type != "int" or group.weights.num_bits not in (4, 8)):
            problem = f"{group.weights.num_bits}-bit weights of type {group.weights.type}"
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
            f"{problem} of compressed-tensors cannot be carried, only integers of 4 or 8 bits: "
            "give the unquantized checkpoint"
        )


def _parts(name: str, known: set[str], first: str) -> tuple[str, ...]:
    kinds = (first, *_PARTS, *_ACTIVATION_PARTS)
    return tuple(part for kind in kinds if (part := f"{name}.{kind}") in known)


def _packed(tensors: Tensors, name: str, known: set[str]) -> QuantizedLayer:
    parts = _parts(name, known, "weight_packed")
    scale, shape, zeros, indices = (f"{name}.{kind}" for kind in ("weight_scale", "weight_shape", *_PARTS[1::2]))
    if scale not in parts or shape not in parts:
        raise damaged(name, "it has no weight_scale or no weight_shape")
    n, k = (int(size) for size in array(tensors, shape))
    words = tensors.shape(name + _PACKED)[1]
    groups = tensors.shape(scale)[1]
    bits = words * 32 // k
    if bits not in (4, 8) or words * 32 != k * bits or k % groups or tensors.shape(scale) != (n, groups):
        raise damaged(name, "the shapes of its weight_packed, weight_scale and weight_shape do not fit each other")
    group_size, order = k // groups, None
    if indices in parts and (group_of := array(tensors, indices))[0] >= 0:
        order = column_order(group_of, group_size, name)

    def read() -> Groups:
        codes = unpack(array(tensors, name + _PACKED), bits)
        zero_points = None
        if zeros in parts:
            zero_points = unpack(array(tensors, zeros).T, bits).T[:n]
        return Groups(codes if order is None else codes[:, order], array(tensors, scale), zero_points, order)

    weight = grouped(bits, engine_group(group_size, name), zeros not in parts, order is not None, read)
    return QuantizedLayer(parts, (n, k), weight)


def _plain(tensors: Tensors, name: str, known: set[str]) -> QuantizedLayer:
    parts = _parts(name, known, "weight")
    weight, scale, indices = (f"{name}.{kind}" for kind in ("weight", "weight_scale", "weight_g_idx"))
    if weight not in parts:
        raise damaged(name, "it has a weight_scale and no weight")
    n, k = tensors.shape(weight)
    shape = tensors.shape(scale)
    groups = shape[1] if len(shape) == 2 else 1
    if shape not in ((1,), (1, 1), (n, groups)) or k % groups:
        raise damaged(name, "the shapes of its weight and weight_scale do not fit each other")
    if indices in parts:
        raise UnsupportedModelError(f"{name} has its columns in an order of their own and is not packed: pack it")
    return QuantizedLayer(parts, (n, k), _integers(tensors, name, (n, k // groups), parts))


def _integers(tensors: Tensors, name: str, size: tuple[int, int], parts: tuple[str, ...]) -> PrequantizedWeight:
    n, group_size = size
    asymmetric = f"{name}.weight_zero_point" in parts
    input_scale = f"{name}.input_scale"

    def scales() -> npt.NDArray[np.float32]:
        values = array(tensors, f"{name}{_SCALE}")
        return np.broadcast_to(values.reshape(-1, 1), (n, 1)) if values.size == 1 else values

    def codes() -> npt.NDArray[np.int8]:
        values = array(tensors, f"{name}.weight")
        if values.dtype != np.int8:
            raise damaged(name, f"its weight is {values.dtype}, not int8")
        return values

    k = tensors.shape(f"{name}.weight")[1]
    if group_size == k and not asymmetric:
        static = input_scale in parts and f"{name}.input_zero_point" not in parts and tensors.shape(input_scale) == (1,)
        return channels(
            k,
            name,
            lambda: (codes(), np.ascontiguousarray(scales()[:, 0])),
            (lambda: float(array(tensors, input_scale)[0])) if static else None,
        )

    def read() -> Groups:
        sign_bit = np.uint8(0x80)
        zero_points = None
        if asymmetric:
            zero_points = array(tensors, f"{name}.weight_zero_point").astype(np.int8).view(np.uint8) ^ sign_bit
            zero_points = np.broadcast_to(zero_points.reshape(-1, k // group_size), scales().shape)
        return Groups(codes().view(np.uint8) ^ sign_bit, scales(), zero_points)

    return grouped(8, engine_group(group_size, name), not asymmetric, act_order=False, read=read)
