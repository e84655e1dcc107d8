"""Read GPTQ checkpoints (AutoGPTQ, GPTQModel).

A layer has qweight int32 [K * bits / 32, N], which packs codes along K, qzeros int32 [G, N * bits / 32], which packs
zero points along N, scales [G, N] and, with act-order, g_idx int32 [K], the group of each input channel.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from pydantic import BaseModel

from edgekiln.sources.quantized.grid import (
    Groups,
    QuantizedLayer,
    Tensors,
    array,
    column_order,
    damaged,
    engine_group,
    grouped,
    unpack,
)

_SUFFIX = ".qweight"


class GptqConfig(BaseModel):
    """The fields of a quantization_config that are read; a layer's bits and group size are derived from its tensors.

    Attributes:
        sym: symmetric quantization: every zero point is 2^(bits - 1).
        checkpoint_format: `gptq` stores zero points minus 1, `gptq_v2` unchanged.
    """

    quant_method: Literal["gptq"]
    bits: Literal[4, 8]
    sym: bool = True
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"


def find_layers(tensors: Tensors, names: Iterable[str], config: GptqConfig) -> dict[str, QuantizedLayer]:
    """Find the quantized layers among the tensors `names`.

    Args:
        tensors: the checkpoint.
        names: of all its tensors.
        config: its quantization_config.

    Returns:
        The layers by module name.

    Raises:
        SourceError: tensors of a layer are missing, or their shapes or values contradict each other.
        UnsupportedModelError: the group size is no multiple of 32, or groups differ in size.
    """
    known = set(names)
    return {
        name.removesuffix(_SUFFIX): _layer(tensors, name.removesuffix(_SUFFIX), known, config)
        for name in known
        if name.endswith(_SUFFIX)
    }


def _layer(tensors: Tensors, name: str, known: set[str], config: GptqConfig) -> QuantizedLayer:
    parts = {part: f"{name}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx") if f"{name}.{part}" in known}
    if missing := {"qweight", "qzeros", "scales"} - set(parts):
        raise damaged(name, f"it has no {min(missing)}")
    words, n = tensors.shape(parts["qweight"])
    groups = tensors.shape(parts["scales"])[0]
    k = tensors.shape(parts["g_idx"])[0] if "g_idx" in parts else words * 32 // config.bits
    bits = words * 32 // k
    if (
        bits not in (4, 8)
        or words * 32 != k * bits
        or k % groups
        or tensors.shape(parts["scales"]) != (groups, n)
        or tensors.shape(parts["qzeros"]) != (groups, n * bits // 32)
    ):
        raise damaged(name, "the shapes of its qweight, qzeros, scales and g_idx do not fit each other")
    group_size = k // groups
    order = column_order(array(tensors, parts["g_idx"]), group_size, name) if "g_idx" in parts else None

    def read() -> Groups:
        codes = unpack(array(tensors, parts["qweight"]).T, bits)
        zero_words = array(tensors, parts["qzeros"])
        if config.checkpoint_format == "gptq":
            # As GPTQModel does: add 1 to every code of the packed word in one addition, carries included.
            zero_words = zero_words.view(np.uint32) + np.uint32(0xFFFFFFFF // ((1 << bits) - 1))
        zero_points = unpack(zero_words, bits).T
        if config.sym and (zero_points != 1 << bits - 1).any():
            raise damaged(name, "its configuration says sym, its zero points differ")
        return Groups(
            codes if order is None else codes[:, order],
            array(tensors, parts["scales"]).T,
            None if config.sym else zero_points,
            order,
        )

    weight = grouped(bits, engine_group(group_size, name), config.sym, order is not None, read)
    return QuantizedLayer(tuple(parts.values()), (n, k), weight)
