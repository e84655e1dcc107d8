"""Zeroed arrays that a decode step reads in whole: one allocation in huge pages, which save TLB misses.

In C++, cpp/src/util/zeroed_memory.h.
"""

import ctypes
import itertools
import math
import mmap
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

HUGE_PAGE: Final = 2 << 20  # bytes
_CACHE_LINE: Final = 64  # bytes
_MADVISE = getattr(ctypes.CDLL(None), "madvise", None)
if _MADVISE is not None:
    _MADVISE.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def release_pages(array: NDArray) -> None:
    """Give the memory of a contiguous array of anonymous memory back; its pages are zeros when they are used again.

    Only whole pages go, since those at its ends may hold other data.
    """
    _advise(array, getattr(mmap, "MADV_DONTNEED", None))


def use_small_pages(array: NDArray) -> None:
    """Let a new contiguous array take memory in small pages, as it is written."""
    _advise(array, getattr(mmap, "MADV_NOHUGEPAGE", None))


def _advise(array: NDArray, advice: int | None) -> None:
    """madvise(2) on the whole pages of an array, where the system has it."""
    first = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (array.ctypes.data + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if _MADVISE is not None and advice is not None and size > 0:
        _MADVISE(first, size, advice)


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
