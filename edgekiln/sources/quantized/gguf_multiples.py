"""ggml formats whose weights are whole multiples of a step for each 32 or 16 weights: codebooks of vectors, and others.

The values of these codebooks are integers, so that w = step · m with an integer m that 8 or 4 bits hold. Engines keep
such weights exactly, as scale `step` and code m. Q3_K has scales for each 16 weights, which are integers of 6 bits
times the scale of a block of 256: m is the product of two small integers there, for each 32 weights. The products of
the other formats with scales for each 16 weights are too large for that: they are kept in groups of 16.

The steps are those of ggml-quants.c; the weights themselves are those of `gguf.quants.dequantize`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from gguf.quants import NVFP4, dequantize

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight

GROUP, HALF = 32, 16
_BLOCK = 256  # of the K and IQ formats
_GROUPS = _BLOCK // GROUP
PART = 1 << 22  # weights that are converted at a time

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Multiples(NamedTuple):
    """A block format.

    Attributes:
        bits: of the codes that hold the multiples.
        steps: reads the steps of blocks uint8 [B, bytes per block], as float32 [B] or [B, groups per block].
        group: weights that share a step.
    """

    bits: int
    steps: Callable[[Bytes], Floats]
    group: int = GROUP

    @property
    def scheme(self) -> Scheme:
        """The scheme of the kept weight."""
        return Scheme(self.bits, self.group, symmetric=True, activation="none")


def _half(raw: Bytes) -> Floats:
    """Read float16 values of two bytes each, [B, 2], as float32 [B, 1]."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _upper_four_bits(first: int, factor: float) -> Callable[[Bytes], Floats]:
    """IQ2_XXS, IQ3_XXS: group scales s in the upper four bits of words, every `stride` from byte `first`."""

    def steps(raw: Bytes) -> Floats:
        stride = (raw.shape[1] - first) // _GROUPS
        scales = raw[:, first + stride - 1 :: stride] >> 4
        return _half(raw[:, :2]) * (scales.astype(np.float32) + np.float32(0.5)) * np.float32(factor)

    return steps


def _odd_nibbles(raw: Bytes) -> Floats:
    """IQ3_S: group scales 2s + 1, s in the nibbles of the last 4 bytes."""
    scales = np.stack([raw[:, -4:] & 15, raw[:, -4:] >> 4], axis=2).reshape(-1, _GROUPS)
    return _half(raw[:, :2]) * (2 * scales.astype(np.float32) + 1)


def _odd_three_bits(raw: Bytes) -> Floats:
    """IQ1_S: group scales 2s + 1, s in bits 12 to 14 of 8 words. Values are -1, 0 and 1 plus or minus an eighth."""
    scales = np.ascontiguousarray(raw[:, -2 * _GROUPS :]).view("<u2") >> 12 & 7
    return _half(raw[:, :2]) * (2 * scales.astype(np.float32) + 1) * np.float32(0.125)


def _half_nibbles(raw: Bytes) -> Floats:
    """IQ2_XS, IQ2_S: scales s of groups of 16 in the nibbles of the last 8 bytes."""
    scales = np.stack([raw[:, -8:] & 15, raw[:, -8:] >> 4], axis=2).reshape(-1, _BLOCK // HALF)
    return _half(raw[:, :2]) * (scales.astype(np.float32) + np.float32(0.5)) * np.float32(0.25)


def _odd_three_bits_of_half(raw: Bytes) -> Floats:
    """IQ1_M: scales 2s + 1 of groups of 16: a word has four s of 3 bits, and four bits of the float16 scale."""
    words = np.ascontiguousarray(raw[:, -8:]).view("<u2")
    scale = np.bitwise_or.reduce((words & 0xF000) >> np.array([12, 8, 4, 0], np.uint16), axis=1, keepdims=True)
    scales = (words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(-1, _BLOCK // HALF)
    return scale.view("<f2").astype(np.float32) * (2 * scales.astype(np.float32) + 1) * np.float32(0.125)


def _ue4m3(raw: Bytes) -> Floats:
    """NVFP4: scales of groups of 16 in the first 4 bytes."""
    return NVFP4.ue4m3_to_fp32(raw[:, :4]).reshape(-1, 4)


MULTIPLES = {
    Kind.Q3_K: Multiples(8, lambda raw: _half(raw[:, -2:])),
    Kind.IQ3_S: Multiples(8, _odd_nibbles),
    Kind.IQ3_XXS: Multiples(8, _upper_four_bits(66, 0.5)),
    Kind.IQ2_XXS: Multiples(8, _upper_four_bits(2, 0.25)),
    Kind.IQ1_S: Multiples(8, _odd_three_bits),
    Kind.TQ1_0: Multiples(4, lambda raw: _half(raw[:, -2:])),
    Kind.TQ2_0: Multiples(4, lambda raw: _half(raw[:, -2:])),
    Kind.IQ2_XS: Multiples(8, _half_nibbles, HALF),
    Kind.IQ2_S: Multiples(8, _half_nibbles, HALF),
    Kind.IQ1_M: Multiples(8, _odd_three_bits_of_half, HALF),
    Kind.NVFP4: Multiples(8, _ue4m3, HALF),
}


def unpack_multiples(kind: Kind, raw: Bytes) -> QuantizedWeight:
    """The weight of blocks of a format of `MULTIPLES`, exactly that of `gguf.quants.dequantize`.

    Args:
        kind: the format.
        raw: uint8 [N, bytes per row].

    Returns:
        The weight; the scales of groups with a weight that is not finite are NaN.
    """
    form, (block, size) = MULTIPLES[kind], GGML_QUANT_SIZES[kind]
    n, k = len(raw), raw.shape[1] // size * block
    codes, scales = np.empty((n, k), np.uint8), np.empty((n, k // form.group), np.float32)
    # A part of the rows at a time: the floats of a large weight need not fit into memory.
    rows = max(PART // k, 1)
    for part in (slice(first, first + rows) for first in range(0, n, rows)):
        codes[part], scales[part] = _codes_and_steps(kind, form, raw[part], k)
    return QuantizedWeight(form.scheme, codes, scales, None, relative_error=0.0, clipped=0.0)


def _codes_and_steps(kind: Kind, form: Multiples, raw: Bytes, k: int) -> tuple[Bytes, Floats]:
    middle = 1 << form.bits - 1
    with np.errstate(invalid="ignore", over="ignore"):
        values = dequantize(raw, kind).astype(np.float32, copy=False).reshape(-1, form.group)
        steps = form.steps(raw.reshape(-1, GGML_QUANT_SIZES[kind][1])).reshape(-1, 1)
    steps = np.repeat(steps, len(values) // len(steps), axis=0)
    finite = np.isfinite(values).all(axis=1, keepdims=True)
    multiples = np.zeros_like(values)
    np.divide(values, steps, out=multiples, where=finite & (steps != 0))
    np.rint(multiples, out=multiples)
    # Multiples of Q3_K are from -124 to 128 and thus fit 8 bits with one of the two signs of the step.
    sign = np.where(multiples.max(axis=1, keepdims=True) >= middle, np.float32(-1), np.float32(1))
    codes = (multiples * sign + middle).astype(np.uint8)
    return codes.reshape(-1, k), np.where(finite, steps * sign, np.float32(np.nan)).reshape(-1, k // form.group)
