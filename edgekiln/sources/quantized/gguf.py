"""GGUF's block formats as grids in groups of 32.

A block of a format with a minimum is w = d·q + m. With codes counted from the middle c of their range that is
d·(q - c) + (m + c·d): a symmetric grid and an offset a group. Formats of ggml that have blocks of 16 or look codes up
in a table are quantized again, to 8 bits, which adds little to their own error.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight

GROUP = 32
_FLOAT = (Kind.F32, Kind.F16, Kind.BF16, Kind.F64)
_AGAIN = Scheme(bits=8, group_size=GROUP, symmetric=False, activation="none")

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Blocks(NamedTuple):
    """Groups of 32: codes uint8 [G, 32], scales float32 [G], minima float32 [G] or None where code `middle` is zero."""

    codes: Bytes
    scales: Floats
    minima: Floats | None = None


class Format(NamedTuple):
    """How a format is unpacked.

    Attributes:
        block_bytes: bytes of a block of the file, which may be several groups.
        middle: the code in the middle of the range.
        minima: whether blocks have one.
        unpack: uint8 [blocks, block_bytes] to groups.
    """

    block_bytes: int
    middle: int
    minima: bool
    unpack: Callable[[Bytes], Blocks]

    @property
    def scheme(self) -> Scheme:
        bits = 4 if self.middle == 8 else 8
        return Scheme(bits=bits, group_size=GROUP, symmetric=True, activation="none", offsets=self.minima)


def _half(raw: Bytes) -> Floats:
    """The float16 in two bytes [B, 2] as float32 [B]."""
    return np.ascontiguousarray(raw).view("<f2")[:, 0].astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """[B, n] bytes to [B, 2n] codes: all low nibbles, then all high ones."""
    return np.concatenate([raw & 15, raw >> 4], axis=1)


def _fifth_bits(raw: Bytes) -> Bytes:
    """Bits of [B, 4] bytes, least significant first, as 16 or 0."""
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
    # Two's complement with the sign bit flipped counts from -128.
    return Blocks(raw[:, 2:] ^ np.uint8(0x80), _half(raw[:, :2]))


def _six_bits(raw: Bytes) -> tuple[Bytes, Bytes]:
    """The 8 scales and 8 minima [B, 8] of 6 bits in the 12 bytes of a K block.

    The first four of each are the low six bits of bytes 0 to 3 and 4 to 7; the low nibbles of the last four share
    bytes 8 to 11, and their upper two bits are on top of the first four.
    """
    low, middle, shared = raw[:, 0:4], raw[:, 4:8], raw[:, 8:12]
    scales = np.concatenate([low & 63, (shared & 15) | (low >> 6) << 4], axis=1)
    minima = np.concatenate([middle & 63, (shared >> 4) | (middle >> 6) << 4], axis=1)
    return scales, minima


def _k_blocks(raw: Bytes, codes: Bytes) -> Blocks:
    scales, minima = _six_bits(raw[:, 4:16])
    scale = _half(raw[:, 0:2])[:, None] * scales.astype(np.float32)
    minimum = -_half(raw[:, 2:4])[:, None] * minima.astype(np.float32)
    return Blocks(codes.reshape(-1, GROUP), scale.reshape(-1), minimum.reshape(-1))


def _q4_k(raw: Bytes) -> Blocks:
    return _k_blocks(raw, _nibbles(raw[:, 16:].reshape(-1, GROUP)))


def _q5_k(raw: Bytes) -> Blocks:
    # Bit j of byte i is the fifth bit of weight i of group j.
    high = np.unpackbits(raw[:, 16:48, None], axis=2, bitorder="little").transpose(0, 2, 1)
    codes = _nibbles(raw[:, 48:].reshape(-1, GROUP)).reshape(-1, 8, GROUP)
    return _k_blocks(raw, codes | np.left_shift(high, 4, dtype=np.uint8))


FORMATS = {
    Kind.Q4_0: Format(18, 8, False, _q4_0),
    Kind.Q4_1: Format(20, 8, True, _q4_1),
    Kind.Q5_0: Format(22, 16, False, _q5_0),
    Kind.Q5_1: Format(24, 16, True, _q5_1),
    Kind.Q8_0: Format(34, 128, False, _q8_0),
    Kind.Q4_K: Format(144, 8, True, _q4_k),
    Kind.Q5_K: Format(176, 16, True, _q5_k),
}


def stored_gguf(
    kind: int,
    rows: npt.NDArray[np.int64] | None,
    raw: Callable[[], Bytes],
    dequantized: Callable[[], Floats],
) -> PrequantizedWeight | None:
    """A weight [N, K] of a GGUF file, K a multiple of 32.

    Args:
        kind: its ggml type.
        rows: which row of the file each row of the model is; None for the same.
        raw: reads its bytes, uint8 [N, bytes a row].
        dequantized: reads it as float32 [N, K], rows as the model has them.

    Returns:
        None for floating point.
    """
    if Kind(kind) in _FLOAT:
        return None
    form = FORMATS.get(Kind(kind))
    if form is None:
        note = f"{Kind(kind).name} has no counterpart among the grids of engines and is quantized again, to 8 bits"
        return PrequantizedWeight(_AGAIN, lambda: _again(dequantized()), note=note)
    return PrequantizedWeight(form.scheme, lambda: _unpack(form, raw(), rows))


def _again(weight: Floats) -> QuantizedWeight:
    import torch

    return quantize(torch.from_numpy(weight), _AGAIN)


def _unpack(form: Format, raw: Bytes, rows: npt.NDArray[np.int64] | None) -> QuantizedWeight:
    if rows is not None:
        raw = raw[rows]
    blocks = form.unpack(raw.reshape(-1, form.block_bytes))
    # Codes of five bits stand in the middle of eight.
    codes = blocks.codes + np.uint8(128 - form.middle) if form.scheme.bits == 8 else blocks.codes
    shape = (len(raw), -1)
    offsets = None if blocks.minima is None else (blocks.minima + form.middle * blocks.scales).reshape(shape)
    return QuantizedWeight(
        scheme=form.scheme,
        codes=codes.reshape(shape),
        scales=blocks.scales.reshape(shape),
        zero_points=None,
        relative_error=0.0,
        clipped=0.0,
        offsets=offsets,
    )
