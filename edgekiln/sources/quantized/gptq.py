"""Read GPTQ checkpoints (AutoGPTQ, GPTQModel).

A layer has qweight int32 [K * bits / 32, N], which packs codes along K, qzeros int32 [G, N * bits / 32], which packs
zero points along N, scales [G, N] and, with act-order, g_idx int32 [K], the group of each input channel. Without g_idx
the groups are consecutive. Bits and group size can differ between layers (GPTQModel's `dynamic`); both follow from the
shapes. `sym` describes how a weight was quantized: it is dequantized with the zero points of the file.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from edgekiln.errors import UnsupportedModelError
from edgekiln.sources.quantized.grid import (
    Groups,
    QuantizedLayer,
    Tensors,
    array,
    column_order,
    damaged,
    engine_group,
    grouped,
    matrix_shape,
    stems,
    unpack,
    words_of,
)

_SUFFIX = ".qweight"
_BITS, _OTHER_BITS = (4, 8), (2, 3, 5, 6, 7)


class GptqConfig(BaseModel):
    """The fields of a quantization_config that are read; a layer's bits and group size are derived from its tensors.

    Attributes:
        bits: of most layers.
        sym: symmetric quantization: every zero point is 2^(bits - 1). None if the file does not say.
        checkpoint_format: `gptq` stores zero points minus 1, `gptq_v2` unchanged.
    """

    quant_method: Literal["gptq"]
    bits: Literal[4, 8]
    sym: bool | None = None
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"


def find_layers(tensors: Tensors, names: Iterable[str], config: GptqConfig) -> dict[str, QuantizedLayer]:
    """Find the quantized layers among the tensors `names`.

    Args:
        tensors: the checkpoint.
        names: of all its tensors.
        config: its quantization_config.

    Returns:
        The weights by name.

    Raises:
        SourceError: tensors of a layer are missing, or their shapes or values contradict each other.
        UnsupportedModelError: codes of other than 4 or 8 bits, a group size that is no multiple of 32, or groups of
            several sizes.
    """
    known = set(names)
    return {f"{name}.weight": _layer(tensors, name, known, config) for name in stems(known, _SUFFIX)}


def _layer(tensors: Tensors, name: str, known: set[str], config: GptqConfig) -> QuantizedLayer:
    parts = {part: f"{name}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx") if f"{name}.{part}" in known}
    if missing := {"qweight", "qzeros", "scales"} - set(parts):
        raise damaged(name, f"it has no {min(missing)}")
    words, n = matrix_shape(tensors, parts["qweight"], name)
    groups, columns = matrix_shape(tensors, parts["scales"], name)
    zero_groups, zero_words = matrix_shape(tensors, parts["qzeros"], name)
    bits = zero_words * 32 // n
    if bits in _OTHER_BITS:
        raise UnsupportedModelError(
            f"{name} is quantized to {bits} bits, which cannot be read yet (can: 4, 8): give the unquantized checkpoint"
        )
    if bits not in _BITS or zero_words * 32 != n * bits or zero_groups != groups or columns != n:
        raise damaged(name, "the shapes of its qweight, qzeros and scales do not fit each other")
    k = words * 32 // bits
    if "g_idx" in parts and tensors.shape(parts["g_idx"]) != (k,):
        raise damaged(name, "the shapes of its qweight, qzeros, scales and g_idx do not fit each other")
    if k % groups:
        raise UnsupportedModelError(
            f"{name} has {groups} groups of {k} columns, which are not all of one size: give the unquantized checkpoint"
        )
    group_size = k // groups
    order = column_order(array(tensors, parts["g_idx"]), group_size, name) if "g_idx" in parts else None

    def zero_points() -> npt.NDArray[np.uint8]:
        packed = words_of(tensors, parts["qzeros"], name)
        if config.checkpoint_format == "gptq":
            # As GPTQModel does: add 1 to every code of the packed word in one addition, carries included.
            packed = (packed.view(np.uint32) + np.uint32(0xFFFFFFFF // ((1 << bits) - 1))).view(np.int32)
        return unpack(packed, bits).T

    symmetric = config.sym is not False and bool((zero_points() == 1 << bits - 1).all())

    def read() -> Groups:
        codes = unpack(words_of(tensors, parts["qweight"], name).T, bits)
        return Groups(
            codes if order is None else codes[:, order],
            array(tensors, parts["scales"]).T,
            None if symmetric else zero_points(),
        )

    weight = grouped(bits, engine_group(group_size, k, bits, name), symmetric, read, order)
    return QuantizedLayer(tuple(parts.values()), (n, k), weight)
