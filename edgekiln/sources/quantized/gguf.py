"""Convert ggml's block formats (Q4_0, Q4_K and so on) to quantized weights in groups of 32 or 16.

A block of a format with a min is w = d·q + m, with scale d and min m. With the symmetric zero point c = 2^(bits - 1)
that is d·(q - c) + (m + c·d): symmetric codes and a bias per group. Formats of 4-bit codes that index a codebook are in
`gguf_codebooks`, other codebooks, ternary formats and Q3_K in `gguf_multiples`. Weights that move from one group to
another, and formats that a later release of `gguf` adds, are dequantized and quantized again to 8 bits in groups of 32.

The layouts of the blocks are those of ggml-quants.c.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.sources.quantized.gguf_codebooks import CODEBOOK_FORMATS, kept_codebook
from edgekiln.sources.quantized.gguf_multiples import GROUP, HALF, MULTIPLES, PART, unpack_multiples

FLOAT = (Kind.F32, Kind.F16, Kind.BF16, Kind.F64)
_SCALE_BITS = 32
_REQUANTIZED = Scheme(bits=8, group_size=GROUP, symmetric=False, activation="none")

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Blocks(NamedTuple):
    """Blocks of a tensor as G groups.

    Attributes:
        codes: uint8 [G, group size].
        scales: float32 [G].
        mins: float32 [G]; None in formats without a min, whose codes are around `Format.zero_point`.
    """

    codes: Bytes
    scales: Floats
    mins: Floats | None = None


class Format(NamedTuple):
    """A block format of ggml.

    Attributes:
        block_bytes: size of a block in the file; a block of a K format is eight or sixteen groups.
        zero_point: the code that becomes the middle one: 2^(bits - 1), or 0 so that the bias is the min.
        has_min: blocks have a min.
        unpack: converts uint8 [blocks, block_bytes] to groups.
        group: weights that share a scale.
    """

    block_bytes: int
    zero_point: int
    has_min: bool
    unpack: Callable[[Bytes], Blocks]
    group: int = GROUP

    @property
    def scheme(self) -> Scheme:
        """The scheme of the unpacked weight; codes of 2 and 5 bits become 8-bit codes."""
        bits = 4 if self.zero_point == 8 else 8
        return Scheme(bits=bits, group_size=self.group, symmetric=True, activation="none", group_bias=self.has_min)


def _half(raw: Bytes) -> Floats:
    """Read float16 values of two bytes each, [B, 2], as float32 [B]."""
    return np.ascontiguousarray(raw).view("<f2")[:, 0].astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """Unpack bytes [B, n] to codes [B, 2n]: the low nibbles, then the high nibbles."""
    return np.concatenate([raw & 15, raw >> 4], axis=1)


def _fifth_bits(raw: Bytes) -> Bytes:
    """Unpack the fifth bits of 32 codes, bytes [B, 4], least significant bit first: 16 or 0, [B, 32]."""
    return np.left_shift(np.unpackbits(raw, axis=1, bitorder="little"), 4, dtype=np.uint8)


def _q4_0(raw: Bytes) -> Blocks:
    return Blocks(_nibbles(raw[:, 2:]), _half(raw[:, :2]))


def _q4_1(raw: Bytes) -> Blocks:
    return Blocks(_nibbles(raw[:, 4:]), _half(raw[:, :2]), _half(raw[:, 2:4]))


def _q5_0(raw: Bytes) -> Blocks:
    return Blocks(_nibbles(raw[:, 6:]) | _fifth_bits(raw[:, 2:6]), _half(raw[:, :2]))


def _q5_1(raw: Bytes) -> Blocks:
    return Blocks(_nibbles(raw[:, 8:]) | _fifth_bits(raw[:, 4:8]), _half(raw[:, :2]), _half(raw[:, 2:4]))


def _q8_0(raw: Bytes) -> Blocks:
    # Flipping the sign bit turns int8 codes into uint8 codes with zero point 128.
    return Blocks(raw[:, 2:] ^ np.uint8(0x80), _half(raw[:, :2]))


def _six_bits(raw: Bytes) -> tuple[Bytes, Bytes]:
    """Unpack the 8 scales and 8 mins of 6 bits, [B, 8] each, from the 12 bytes of a K block.

    Scales 0 to 3 are the low six bits of bytes 0 to 3, mins 0 to 3 those of bytes 4 to 7. Scales and mins 4 to 7 have
    their low four bits in the low and high nibbles of bytes 8 to 11, and their upper two bits in bytes 0 to 3 and 4 to
    7. This is ggml's get_scale_min_k4.
    """
    first, second, shared = raw[:, 0:4], raw[:, 4:8], raw[:, 8:12]
    scales = np.concatenate([first & 63, (shared & 15) | (first >> 6) << 4], axis=1)
    mins = np.concatenate([second & 63, (shared >> 4) | (second >> 6) << 4], axis=1)
    return scales, mins


def _k_blocks(raw: Bytes, codes: Bytes) -> Blocks:
    scales, mins = _six_bits(raw[:, 4:16])
    scale = _half(raw[:, 0:2])[:, None] * scales.astype(np.float32)
    minimum = -_half(raw[:, 2:4])[:, None] * mins.astype(np.float32)
    return Blocks(codes.reshape(-1, GROUP), scale.reshape(-1), minimum.reshape(-1))


def _q4_k(raw: Bytes) -> Blocks:
    return _k_blocks(raw, _nibbles(raw[:, 16:].reshape(-1, GROUP)))


def _q5_k(raw: Bytes) -> Blocks:
    # Bit j of byte i is the fifth bit of element i of group j.
    high = np.unpackbits(raw[:, 16:48, None], axis=2, bitorder="little").transpose(0, 2, 1)
    codes = _nibbles(raw[:, 48:].reshape(-1, GROUP)).reshape(-1, 8, GROUP)
    return _k_blocks(raw, codes | np.left_shift(high, 4, dtype=np.uint8))


def _q2_k(raw: Bytes) -> Blocks:
    # Byte i of each 32 has the codes i, 32 + i, 64 + i and 96 + i of 128.
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    codes = np.right_shift(raw[:, 16:80].reshape(-1, 2, 1, GROUP), shifts, dtype=np.uint8) & np.uint8(3)
    scale = _half(raw[:, 80:82])[:, None] * (raw[:, :16] & 15).astype(np.float32)
    minimum = -_half(raw[:, 82:84])[:, None] * (raw[:, :16] >> 4).astype(np.float32)
    return Blocks(codes.reshape(-1, HALF), scale.reshape(-1), minimum.reshape(-1))


def _q6_k(raw: Bytes) -> Blocks:
    # Of each 128 codes, 64 bytes have the lower four bits of codes i and 64 + i, and 32 bytes the upper two bits of
    # codes i, 32 + i, 64 + i and 96 + i.
    low = raw[:, :128].reshape(-1, 2, 64)
    nibbles = np.stack([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, GROUP)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = np.right_shift(raw[:, 128:192].reshape(-1, 2, 1, GROUP), shifts, dtype=np.uint8) & np.uint8(3)
    scales = _half(raw[:, 208:])[:, None] * raw[:, 192:208].view(np.int8).astype(np.float32)
    return Blocks((nibbles | high << 4).reshape(-1, HALF), scales.reshape(-1))


FORMATS = {
    Kind.Q4_0: Format(18, 8, False, _q4_0),
    Kind.Q4_1: Format(20, 8, True, _q4_1),
    Kind.Q5_0: Format(22, 16, False, _q5_0),
    Kind.Q5_1: Format(24, 16, True, _q5_1),
    Kind.Q8_0: Format(34, 128, False, _q8_0),
    Kind.Q4_K: Format(144, 8, True, _q4_k),
    Kind.Q5_K: Format(176, 16, True, _q5_k),
    Kind.Q2_K: Format(84, 0, True, _q2_k, HALF),
    Kind.Q6_K: Format(210, 32, False, _q6_k, HALF),
}


def prequantized_gguf(
    kind: int, raw: Callable[[], Bytes], dequantized: Callable[[], Floats]
) -> PrequantizedWeight | None:
    """The quantized weight [N, K] of a tensor in a GGUF file; K must be a multiple of 32.

    Args:
        kind: the tensor's ggml type.
        raw: reads the tensor's bytes, uint8 [N, bytes per row].
        dequantized: reads the weight as float32 [N, K].

    Returns:
        The weight; None if the tensor holds floats.
    """
    if Kind(kind) in FLOAT:
        return None
    if Kind(kind) in CODEBOOK_FORMATS:
        return kept_codebook(Kind(kind), raw)
    if multiples := MULTIPLES.get(Kind(kind)):
        return PrequantizedWeight(multiples.scheme, lambda: unpack_multiples(Kind(kind), raw()))
    form = FORMATS.get(Kind(kind))
    if form is None:
        return requantized_gguf(kind, "has no counterpart among the formats of engines", dequantized)
    return PrequantizedWeight(form.scheme, lambda: _unpack(form, raw()))


def more_bits(kind: int, scheme: Scheme) -> str | None:
    """For the user, that a format is kept in 8 bits where the file has fewer; None where it has not."""
    block, size = GGML_QUANT_SIZES[Kind(kind)]
    stored = 8 * size / block
    if scheme.bits <= stored or scheme.group_size is None:
        return None
    kept = scheme.bits + _SCALE_BITS * (1 + scheme.group_bias) / scheme.group_size
    return (
        f"{Kind(kind).name} is kept exactly in {scheme.bits} bits: {kept:.3g} bits a weight with its scales, and "
        f"{stored:.3g} in the file"
    )


def requantized_gguf(kind: int, why: str, dequantized: Callable[[], Floats]) -> PrequantizedWeight | None:
    """A weight [N, K] of a GGUF file whose codes cannot be kept, in 8 bits; None if the tensor holds floats.

    Args:
        kind: the tensor's ggml type.
        why: for the note, what is the matter with the weight.
        dequantized: reads the weight as float32 [N, K].
    """
    if Kind(kind) in FLOAT:
        return None
    note = f"{Kind(kind).name} {why} and is quantized again, to 8 bits"
    return PrequantizedWeight(_REQUANTIZED, lambda: _requantize(dequantized()), note=note)


def _requantize(weight: Floats) -> QuantizedWeight:
    import torch

    return quantize(torch.from_numpy(weight), _REQUANTIZED)


def _unpack(form: Format, raw: Bytes) -> QuantizedWeight:
    scheme, n = form.scheme, len(raw)
    # The codes are shifted so that their zero point becomes 128, that of 8-bit codes.
    shift = 128 - form.zero_point if scheme.bits == 8 else 0
    blocks = form.unpack(raw[:1].reshape(-1, form.block_bytes))
    codes = np.empty((n, blocks.codes.size), np.uint8)
    scales = np.empty((n, blocks.scales.size), np.float32)
    group_bias = np.empty_like(scales) if form.has_min else None
    # A part of the rows at a time: what is in between takes more memory than a large weight.
    rows = max(PART // codes.shape[1], 1)
    for part in (slice(first, first + rows) for first in range(0, n, rows)):
        blocks = form.unpack(raw[part].reshape(-1, form.block_bytes))
        np.add(blocks.codes.reshape(-1, codes.shape[1]), np.uint8(shift), out=codes[part])
        scales[part] = blocks.scales.reshape(-1, scales.shape[1])
        if group_bias is not None and blocks.mins is not None:
            bias = blocks.mins + form.zero_point * blocks.scales
            group_bias[part] = bias.reshape(-1, scales.shape[1])
    return QuantizedWeight(scheme, codes, scales, None, relative_error=0.0, clipped=0.0, group_bias=group_bias)
