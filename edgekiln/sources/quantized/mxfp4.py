"""Read MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 values of FP4 (E2M1) with a scale in E8M0.

gpt-oss stores experts as NAME_blocks uint8 [E, N, K / 32, 16] and NAME_scales uint8 [E, N, K / 32]; the model's NAME is
[E, K, N]. Two codes are in a byte, low nibble first.

Engines keep the codes, which index the codebook of FP4; where they cannot, they keep the values exactly in 8 bits.
"""

from collections.abc import Iterable
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from edgekiln.sources.quantized.block_scales import FP4_VALUES, fp4_codes, kept_fp4, multiply_blocks, powers_of_two
from edgekiln.sources.quantized.grid import Floats, QuantizedLayer, Tensors, damaged, stems
from edgekiln.sources.quantized.merge import stack

GROUP = 32
_BLOCKS, _SCALES = "_blocks", "_scales"
_EXPERTS_RANK = 4
NOTE = "MXFP4 is kept exactly in 8 bits: 9 bits a weight with its scales, and 4.25 in the checkpoint"


class Mxfp4Config(BaseModel):
    """The fields of a quantization_config that are read."""

    quant_method: Literal["mxfp4"]


def find_layers(tensors: Tensors, names: Iterable[str], _config: Mxfp4Config) -> dict[str, QuantizedLayer]:
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


def _experts(tensors: Tensors, name: str, known: set[str]) -> QuantizedLayer:
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
    kept = [kept_fp4(GROUP, partial(_expert, tensors, name, expert), NOTE) for expert in range(experts)]
    return QuantizedLayer((blocks, scales), (experts, groups * GROUP, n), stack(kept), transposed=True)


def _expert(tensors: Tensors, name: str, index: int) -> tuple[npt.NDArray[np.uint8], Floats]:
    packed, exponents = (tensors.read_expert(name + part, index).numpy() for part in (_BLOCKS, _SCALES))
    scales, codes = powers_of_two(exponents), fp4_codes(packed).reshape(len(packed), -1)
    with np.errstate(over="ignore"):
        large = not np.isfinite(FP4_VALUES.max() * scales).all()
    if large:
        multiply_blocks(FP4_VALUES[codes], scales, (1, GROUP), name)  # raises SourceError for products that overflow
    return codes, scales
