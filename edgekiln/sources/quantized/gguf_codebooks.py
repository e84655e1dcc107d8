"""ggml formats of 4-bit codes that index a codebook of integers, with a scale for each 32: IQ4_NL, IQ4_XS and MXFP4.

The layouts of the blocks are those of ggml-quants.c.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind

from edgekiln.calib.formats.codebook import with_8_bit_form
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.scheme import Codebook, Scheme
from edgekiln.calib.formats.weight import INTEGER_CODEBOOKS, QuantizedWeight

_GROUP = 32
_PART = 1 << 22  # weights that are converted at a time

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class CodebookBlocks(NamedTuple):
    """A block format.

    Attributes:
        codebook: the table of its codes.
        codes_from: the byte of a block from which on it has codes, 16 bytes a group: the codes of the first half of a
            group in the low nibbles, those of the second half in the high nibbles.
        scales: reads the scales of blocks uint8 [B, bytes per block], as float32 [B, groups per block].
    """

    codebook: Codebook
    codes_from: int
    scales: Callable[[Bytes], Floats]


def _half(raw: Bytes) -> Floats:
    """Read float16 values of two bytes each, [B, 2], as float32 [B, 1]."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _six_bit_scales(raw: Bytes) -> Floats:
    """IQ4_XS: a float16 scale times group scales of 6 bits, the upper two of all 8 in 2 bytes, the lower four in 4."""
    high = np.ascontiguousarray(raw[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = np.stack([raw[:, 4:8] & 15, raw[:, 4:8] >> 4], axis=2).reshape(len(raw), -1)
    return _half(raw[:, :2]) * ((low | high << 4).astype(np.float32) - 32)


def _half_powers_of_two(raw: Bytes) -> Floats:
    """MXFP4: half of a power of two, E8M0, as values of the codebook are those of FP4 doubled."""
    return np.ldexp(np.float32(1), raw[:, :1].astype(np.int32) - 128).astype(np.float32)


CODEBOOK_FORMATS = {
    Kind.IQ4_NL: CodebookBlocks("iq4_nl", 2, lambda raw: _half(raw[:, :2])),
    Kind.IQ4_XS: CodebookBlocks("iq4_nl", 8, _six_bit_scales),
    Kind.MXFP4: CodebookBlocks("e2m1", 1, _half_powers_of_two),
}


def kept_codebook(kind: Kind, raw: Callable[[], Bytes]) -> PrequantizedWeight:
    """The weight of blocks of a format of `CODEBOOK_FORMATS`, exactly that of `gguf.quants.dequantize`.

    Args:
        kind: the format.
        raw: reads the blocks, uint8 [N, bytes per row].

    Returns:
        The weight; the scales of groups in which a weight may be infinite or NaN are NaN.
    """
    scheme = Scheme(4, _GROUP, symmetric=True, activation="none", codebook=CODEBOOK_FORMATS[kind].codebook)
    return with_8_bit_form(PrequantizedWeight(scheme, lambda: _unpack(kind, scheme, raw())))


def _unpack(kind: Kind, scheme: Scheme, raw: Bytes) -> QuantizedWeight:
    form, (block, size) = CODEBOOK_FORMATS[kind], GGML_QUANT_SIZES[kind]
    largest = np.float32(np.abs(INTEGER_CODEBOOKS[form.codebook].astype(np.int16)).max())
    n, k = len(raw), raw.shape[1] // size * block
    codes, scales = np.empty((n, k), np.uint8), np.empty((n, k // _GROUP), np.float32)
    # A part of the rows at a time: what is in between takes more memory than a large weight.
    rows = max(_PART // k, 1)
    for part in (slice(first, first + rows) for first in range(0, n, rows)):
        blocks = raw[part].reshape(-1, size)
        packed = blocks[:, form.codes_from :].reshape(-1, _GROUP // 2)
        codes[part] = np.concatenate([packed & 15, packed >> 4], axis=1).reshape(-1, k)
        with np.errstate(over="ignore", invalid="ignore"):
            found = form.scales(blocks).reshape(-1, k // _GROUP)
            scales[part] = np.where(np.isfinite(largest * found), found, np.float32(np.nan))
    return QuantizedWeight(scheme, codes, scales, None, relative_error=0.0, clipped=0.0)
