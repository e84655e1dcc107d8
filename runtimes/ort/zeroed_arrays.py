"""Zeroed arrays that a decode step reads in whole: one allocation in huge pages, which save TLB misses.

In C++, cpp/src/util/zeroed_memory.h.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

HUGE_PAGE: Final = 2 << 20  # bytes
_CACHE_LINE: Final = 64  # bytes


def zeroed_arrays(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[DTypeLike]) -> list[NDArray]:
    """Consecutive arrays that begin at cache lines; numpy requests huge pages for allocations of 4 MB or more."""
    types = [np.dtype(dtype) for dtype in dtypes]
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, types, strict=True)]
    spans = [-(-size // _CACHE_LINE) * _CACHE_LINE for size in sizes]
    memory = np.zeros(sum(spans) + HUGE_PAGE, dtype=np.uint8)
    offsets = itertools.accumulate(spans, initial=-memory.ctypes.data % HUGE_PAGE)
    return [
        memory[offset : offset + size].view(dtype).reshape(shape)
        for offset, size, dtype, shape in zip(offsets, sizes, types, shapes, strict=False)
    ]
