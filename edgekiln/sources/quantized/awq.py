"""Read AWQ checkpoints in the GEMM layout (AutoAWQ).

A layer has qweight int32 [K, N / 8], which packs codes along N, qzeros int32 [G, N / 8], which packs zero points along
N, and scales [G, N]. The eight codes of a word are interleaved in the order in which AutoAWQ's GPU kernel unpacks them.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from pydantic import BaseModel, field_validator

from edgekiln.sources.quantized.grid import (
    Groups,
    QuantizedLayer,
    Tensors,
    array,
    damaged,
    engine_group,
    grouped,
    matrix_shape,
    stems,
    unpack,
    words_of,
)

_SUFFIX = ".qweight"
_BITS = 4
# Nibble of the packed word in which each of eight outputs is stored: output 1 in nibble 4, output 2 in nibble 1, ...
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


class AwqConfig(BaseModel):
    """The fields of a quantization_config that are read; the group size is derived from the tensors' shapes."""

    quant_method: Literal["awq"]
    bits: Literal[4]
    version: Literal["gemm"] = "gemm"
    zero_point: Literal[True] = True

    @field_validator("version", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


def find_layers(tensors: Tensors, names: Iterable[str], _config: AwqConfig) -> dict[str, QuantizedLayer]:
    """Find the quantized layers among the tensors `names`.

    Args:
        tensors: the checkpoint.
        names: of all its tensors.
        _config: its quantization_config; not needed.

    Returns:
        The weights by name.

    Raises:
        SourceError: tensors of a layer are missing, or their shapes or values contradict each other.
        UnsupportedModelError: the group size is no multiple of 32.
    """
    known = set(names)
    return {f"{name}.weight": _layer(tensors, name, known) for name in stems(known, _SUFFIX)}


def _layer(tensors: Tensors, name: str, known: set[str]) -> QuantizedLayer:
    parts = [f"{name}.{part}" for part in ("qweight", "qzeros", "scales")]
    if missing := [part for part in parts if part not in known]:
        raise damaged(name, f"there is no {missing[0]}")
    k, words = matrix_shape(tensors, parts[0], name)
    groups, n = matrix_shape(tensors, parts[2], name)
    if words * 32 != n * _BITS or k % groups or tensors.shape(parts[1]) != (groups, words):
        raise damaged(name, "the shapes of its qweight, qzeros and scales do not fit each other")

    def read() -> Groups:
        codes, zero_points = (_in_order(unpack(words_of(tensors, part, name), _BITS)).T for part in parts[:2])
        return Groups(np.ascontiguousarray(codes), array(tensors, parts[2]).T, zero_points)

    size = engine_group(k // groups, k, _BITS, name)
    weight = grouped(_BITS, size, symmetric=False, read=read)
    return QuantizedLayer(tuple(parts), (n, k), weight)


def _in_order(codes: np.ndarray) -> np.ndarray:
    """Undo the interleaving of codes [..., N]: element n of the result is the code of output n."""
    return codes.reshape(*codes.shape[:-1], -1, len(_PLACES))[..., _PLACES].reshape(codes.shape)
