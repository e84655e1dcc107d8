"""Read bitsandbytes checkpoints: NF4, with or without double quantization, and LLM.int8().

NF4: weight uint8 [N * K / 2, 1] holds two codes per byte, the first in the high nibble. absmax has one scale per block
of the flattened weight. With double quantization, absmax holds codes into nested_quant_map, which are scaled by
nested_absmax and shifted by nested_offset. quant_state is a JSON text with shape and block size.

LLM.int8(): weight int8 [N, K], and SCB [N], the absolute maximum of each row. bitsandbytes computes outlier activations
in floating point; engines quantize all activations of a layer alike.
"""

import json
import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, PositiveInt, ValidationError

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import CODEBOOKS, QuantizedWeight
from edgekiln.errors import UnsupportedModelError
from edgekiln.sources.quantized.grid import QuantizedLayer, Tensors, array, channels, damaged, matrix_shape, stems

_STATE = ".weight.quant_state.bitsandbytes__nf4"
_ROW_ABSMAX = ".SCB"
_ROW_MAJOR = 0


class BitsAndBytesConfig(BaseModel):
    """The fields of a quantization_config that are read."""

    quant_method: Literal["bitsandbytes"]
    load_in_4bit: bool = False
    bnb_4bit_quant_type: str = "nf4"
    bnb_4bit_quant_storage: Literal["uint8"] = "uint8"


class _QuantState(BaseModel):
    quant_type: Literal["nf4"]
    blocksize: PositiveInt
    shape: tuple[PositiveInt, PositiveInt]
    nested_blocksize: PositiveInt | None = None
    nested_offset: float = 0.0


def find_layers(tensors: Tensors, names: Iterable[str], config: BitsAndBytesConfig) -> dict[str, QuantizedLayer]:
    """Find the quantized layers among the tensors `names`.

    Args:
        tensors: the checkpoint.
        names: of all its tensors.
        config: its quantization_config.

    Returns:
        The weights by name.

    Raises:
        SourceError: tensors of a layer are missing, or their shapes or values contradict each other.
        UnsupportedModelError: the codebook is not NF4, or a block spans two rows.
    """
    known = set(names)
    if config.load_in_4bit and config.bnb_4bit_quant_type != "nf4":
        raise UnsupportedModelError(
            f"4-bit weights of type {config.bnb_4bit_quant_type} cannot be carried, of bitsandbytes' types only nf4: "
            "give the unquantized checkpoint"
        )
    return {f"{name}.weight": _nf4(tensors, name, known) for name in stems(known, _STATE)} | {
        f"{name}.weight": _int8(tensors, name, known) for name in stems(known, _ROW_ABSMAX)
    }


def _nf4(tensors: Tensors, name: str, known: set[str]) -> QuantizedLayer:
    weight = f"{name}.weight"
    try:
        state = _QuantState.model_validate(json.loads(array(tensors, name + _STATE).tobytes()))
    except (ValueError, ValidationError, RecursionError) as error:
        raise damaged(name, "its quant_state is not that of an NF4 weight") from error
    n, k = state.shape
    if k % state.blocksize:
        raise UnsupportedModelError(
            f"{name} has rows of {k} in blocks of {state.blocksize}, which run over their ends: engines do "
            "not support that, give the unquantized checkpoint"
        )
    kinds = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    parts = [weight, name + _STATE, *(part for kind in kinds if (part := f"{weight}.{kind}") in known)]
    absmax = f"{weight}.absmax"
    if (
        absmax not in parts
        or math.prod(tensors.shape(weight)) * 2 != n * k
        or math.prod(tensors.shape(absmax)) * state.blocksize != n * k
    ):
        raise damaged(name, "its weight, absmax and shape do not fit each other")
    scheme = Scheme(4, state.blocksize, True, "none", codebook="nf4")

    def read() -> QuantizedWeight:
        table = array(tensors, f"{weight}.quant_map") if f"{weight}.quant_map" in parts else CODEBOOKS["nf4"]
        if not np.allclose(table, CODEBOOKS["nf4"], atol=1e-6):
            raise damaged(name, "its quant_map is not NF4's")
        packed = array(tensors, weight).reshape(n, -1)
        codes = np.stack([packed >> 4, packed & 15], axis=-1).reshape(n, k)
        scales = _scales(tensors, weight, state).reshape(n, -1)
        return QuantizedWeight(scheme, codes, scales, None, relative_error=0.0, clipped=0.0)

    return QuantizedLayer(tuple(parts), (n, k), PrequantizedWeight(scheme, read))


def _scales(tensors: Tensors, weight: str, state: _QuantState) -> npt.NDArray[np.float32]:
    scales = array(tensors, f"{weight}.absmax")
    if state.nested_blocksize is None:
        return scales
    table, largest = (array(tensors, f"{weight}.{kind}") for kind in ("nested_quant_map", "nested_absmax"))
    factors = np.repeat(largest, state.nested_blocksize)[: len(scales)]
    return table[scales] * factors + np.float32(state.nested_offset)


def _int8(tensors: Tensors, name: str, known: set[str]) -> QuantizedLayer:
    weight, absmax, layout = f"{name}.weight", name + _ROW_ABSMAX, f"{name}.weight_format"
    if weight not in known:
        raise damaged(name, f"there is no {weight}")
    n, k = matrix_shape(tensors, weight, name)
    if tensors.shape(absmax) != (n,):
        raise damaged(name, "its weight and SCB do not fit each other")
    if layout in known and (code := array(tensors, layout).item()) != _ROW_MAJOR:
        raise UnsupportedModelError(f"{name} is laid out for a GPU (weight_format {code}): save it row-major")

    def read() -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        return array(tensors, weight), np.divide(array(tensors, absmax), 127, dtype=np.float32)

    parts = tuple(part for part in (weight, absmax, layout) if part in known)
    return QuantizedLayer(parts, (n, k), channels(k, name, read))
