"""Read MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 values of FP4 (E2M1) with a scale in E8M0.

gpt-oss stores experts as NAME_blocks uint8 [E, N, K / 32, 16] and NAME_scales uint8 [E, N, K / 32]; the model's NAME is
[E, K, N]. Two codes are in a byte, low nibble first.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from pydantic import BaseModel

from edgekiln.sources.quantized.block_scales import FP4_VALUES, fp4_codes, multiply_blocks, powers_of_two
from edgekiln.sources.quantized.grid import DequantizedTensor, Floats, Tensors, array, damaged, stems

GROUP = 32
_BLOCKS, _SCALES = "_blocks", "_scales"
_EXPERTS_RANK = 4


class Mxfp4Config(BaseModel):
    """The fields of a quantization_config that are read."""

    quant_method: Literal["mxfp4"]


def find_layers(tensors: Tensors, names: Iterable[str], _config: Mxfp4Config) -> dict[str, DequantizedTensor]:
    """Find the quantized experts among the tensors `names`.

    Args:
        tensors: the checkpoint.
        names: of all its tensors.
        _config: its quantization_config; not needed.

    Returns:
        The experts by name.

    Raises:
        SourceError: the tensors of one are missing, or their shapes or types contradict each other.
    """
    known = set(names)
    return {name: _experts(tensors, name, known) for name in stems(known, _BLOCKS)}


def _experts(tensors: Tensors, name: str, known: set[str]) -> DequantizedTensor:
    blocks, scales = name + _BLOCKS, name + _SCALES
    if scales not in known:
        raise damaged(name, f"there is no {scales}")
    shape = tensors.shape(blocks)
    if len(shape) != _EXPERTS_RANK or 0 in shape or shape[3] * 2 != GROUP or tensors.shape(scales) != shape[:3]:
        raise damaged(
            name,
            f"its blocks have the shape {list(shape)} and its scales {list(tensors.shape(scales))}, which do "
            "not fit each other",
        )
    for part in (blocks, scales):
        if tensors.dtype(part) != "U8":
            raise damaged(name, f"{part} is {tensors.dtype(part)}, not U8")
    experts, n, groups, _ = shape

    def read() -> Floats:
        weight = np.empty((experts, groups * GROUP, n), np.float32)
        packed, exponents = array(tensors, blocks), array(tensors, scales)
        # One expert at a time: there are up to 128 of them.
        for expert in range(experts):
            values = FP4_VALUES[fp4_codes(packed[expert])].reshape(n, -1)
            weight[expert] = multiply_blocks(values, powers_of_two(exponents[expert]), (1, GROUP), name).T
        return weight

    return DequantizedTensor((blocks, scales), (experts, groups * GROUP, n), "MXFP4", read)
