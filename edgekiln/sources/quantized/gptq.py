"""GPTQ checkpoints (AutoGPTQ, GPTQModel): qweight, qzeros, scales and, for act-order, g_idx of each layer.

qweight int32 [K * bits / 32, N] packs codes along the inputs, qzeros int32 [G, N * bits / 32] zero points along the
outputs; scales are [G, N]; g_idx [K] names the group of each input.
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
    """What of a quantization_config matters here; bits and groups are read off the tensors.

    Attributes:
        sym: all zero points are the middle code.
        checkpoint_format: `gptq` stores zero points less one, `gptq_v2` as they are.
    """

    quant_method: Literal["gptq"]
    bits: Literal[4, 8]
    sym: bool = True
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"


def find_layers(tensors: Tensors, names: Iterable[str], config: GptqConfig) -> dict[str, QuantizedLayer]:
    """The quantized layers by module name.

    Raises:
        SourceError: tensors are missing or contradict each other.
        UnsupportedModelError: groups that engines do not have.
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
    words, rows = tensors.shape(parts["qweight"])
    groups = tensors.shape(parts["scales"])[0]
    columns = tensors.shape(parts["g_idx"])[0] if "g_idx" in parts else words * 32 // config.bits
    bits = words * 32 // columns
    if (
        bits not in (4, 8)
        or words * 32 != columns * bits
        or columns % groups
        or tensors.shape(parts["scales"]) != (groups, rows)
        or tensors.shape(parts["qzeros"]) != (groups, rows * bits // 32)
    ):
        raise damaged(name, "the shapes of its qweight, qzeros, scales and g_idx do not fit each other")
    group_size = columns // groups
    order = column_order(array(tensors, parts["g_idx"]), group_size, name) if "g_idx" in parts else None

    def read() -> Groups:
        codes = unpack(array(tensors, parts["qweight"]).T, bits)
        zero_words = array(tensors, parts["qzeros"])
        if config.checkpoint_format == "gptq":
            # As the libraries do it: one for every code of the word, carries and all.
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

    stored = grouped(bits, engine_group(group_size, name), config.sym, order is not None, read)
    return QuantizedLayer(tuple(parts.values()), (rows, columns), stored)
