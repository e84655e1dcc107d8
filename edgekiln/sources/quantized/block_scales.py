"""Floats of 8 and 4 bits with scales of tensors, channels, groups or blocks, dequantized to float32.

FP8 is E4M3 or E5M2 (Micikevicius et al. 2022), FP4 is E2M1, and E8M0 is a power of two (OCP Microscaling Formats 1.0).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekiln.calib.formats.codebook import with_8_bit_form
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.scheme import GROUP_SIZES, Scheme
from edgekiln.calib.formats.weight import INTEGER_CODEBOOKS, QuantizedWeight
from edgekiln.sources.quantized.grid import Floats, Tensors, array, as_array, damaged

FP8_DTYPES = ("F8_E4M3", "F8_E5M2")
FP4_VALUES: Floats = np.divide(INTEGER_CODEBOOKS["e2m1"], 2, dtype=np.float32)
_E8M0_BIAS, _E8M0_NAN = 127, 255


def fp4_codes(raw: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Unpack bytes [..., n] to FP4 codes [..., 2n], low nibbles first."""
    raw = raw.view(np.uint8)
    return np.stack([raw & 15, raw >> 4], axis=-1).reshape(*raw.shape[:-1], -1)


def kept_fp4(
    group: int, read: Callable[[], tuple[npt.NDArray[np.uint8], Floats]], note: str | None = None
) -> PrequantizedWeight:
    """A weight [N, K] in FP4 without loss: its values are multiples of half the scale of their group.

    It keeps its 4-bit codes in groups of 32 and more, for which kernels have a codebook, else it gets 8-bit ones.

    Args:
        group: weights that share a scale.
        read: reads the codes, uint8 [N, K], and the scales, float32 [N, K / group]. Scales with which values may be
            infinite become NaN, which the build refuses.
        note: of the weight in 8 bits, see `PrequantizedWeight`.
    """
    scheme = Scheme(4, group, symmetric=True, activation="none", codebook="e2m1")

    def weight() -> QuantizedWeight:
        codes, scales = read()
        with np.errstate(over="ignore"):
            finite = np.isfinite(FP4_VALUES.max() * scales)
        halves = np.where(finite, scales * np.float32(0.5), np.float32(np.nan))
        return QuantizedWeight(scheme, codes, halves, None, relative_error=0.0, clipped=0.0)

    kept = with_8_bit_form(PrequantizedWeight(scheme, weight), note)
    return kept if group in GROUP_SIZES else kept.others[0]


def powers_of_two(exponents: npt.NDArray[np.uint8]) -> Floats:
    """E8M0 values as float32: 2^(e - 127), and NaN for 255."""
    with np.errstate(over="ignore"):  # 255, which is NaN
        values = np.ldexp(np.float32(1), exponents.astype(np.int32) - _E8M0_BIAS).astype(np.float32)
    return np.where(exponents == _E8M0_NAN, np.float32(np.nan), values)


def scales_of(tensors: Tensors, part: str, expert: int | None = None) -> Floats:
    """Read scales, or those of one expert, as float32: floats of any type, E8M0, or bytes that are E8M0."""
    values = array(tensors, part) if expert is None else as_array(tensors.read_expert(part, expert))
    return powers_of_two(values) if values.dtype == np.uint8 else values


def block_size(
    shape: tuple[int, ...], scales: tuple[int, ...], blocks: Iterable[tuple[int, int]], name: str
) -> tuple[int, int]:
    """Rows and columns of a weight [..., N, K] that share a scale.

    Args:
        shape: of the weight.
        scales: shape of the scales: of one value, [N], or [..., blocks of rows, blocks of columns].
        blocks: sizes that the configuration names; the last block of rows or columns may be smaller.
        name: of the weight, for the error message.

    Raises:
        SourceError: no block size gives scales of this shape.
    """
    n, k = shape[-2:]
    if math.prod(scales) == 1 or scales == shape[:-2]:
        return n, k
    grid = (scales[0], 1) if len(scales) == 1 else scales[-2:]
    for size in blocks:
        if grid == (math.ceil(n / size[0]), math.ceil(k / size[1])) and scales[:-2] == shape[:-2]:
            return size
    if 0 in grid or n % grid[0] or k % grid[1] or (len(scales) != 1 and scales[:-2] != shape[:-2]):
        raise damaged(name, f"its scales have the shape {list(scales)}, which does not fit its shape {list(shape)}")
    return n // grid[0], k // grid[1]


def multiply_blocks(weight: Floats, scales: Floats, size: tuple[int, int], name: str) -> Floats:
    """Multiply a weight [..., N, K] in place by the scales of its blocks, see `block_size`; returns it.

    Raises:
        SourceError: a product is NaN or infinite.
    """
    n, k = weight.shape[-2:]
    rows, columns = math.ceil(n / size[0]), math.ceil(k / size[1])
    matrices = weight.reshape(-1, n, k)
    grid = np.broadcast_to(scales.reshape(-1, rows, columns), (len(matrices), rows, columns))
    with np.errstate(over="ignore", invalid="ignore"):
        for matrix, matrix_scales in zip(matrices, grid, strict=True):
            for row, row_scales in enumerate(matrix_scales):
                matrix[row * size[0] : (row + 1) * size[0]] *= np.repeat(row_scales, size[1])[:k]
    if not np.isfinite(weight).all():
        raise damaged(name, "a value is NaN or infinite")
    return weight
