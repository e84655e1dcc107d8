"""The KV cache of the CPU adapter: per layer one buffer for keys and one for values, [B, KV, capacity, D].

Each buffer is bound as past and as present, so the graph appends in place. Attention reads only the positions below a
sequence's length, so a rewind changes no buffer. The batch is the outermost axis: one sequence is a contiguous slice
and can be prefilled separately.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekiln.runtimes.base import Properties
from edgekiln.runtimes.kv_cache import RaggedKVCache

HUGE_PAGE = 2 << 20  # bytes


class OrtKVCache(RaggedKVCache):
    """Keys and values in numpy arrays; see `edgekiln.runtimes.base.KVCache`.

    Attributes:
        layers: (keys, values) of each layer, both [B, KV, capacity, D] of the engine's cache type.
    """

    def __init__(self, properties: Properties, dtype: np.dtype, batch_size: int) -> None:
        super().__init__(properties, batch_size)
        self.layers: list[tuple[NDArray, NDArray]] = []
        self._dtype = dtype

    def _grow(self, capacity: int, used: int) -> None:
        shapes = [
            (self.batch_size, heads, capacity, size)
            for heads, size in zip(self._properties.kv_heads, self._properties.head_dims, strict=True)
        ]
        shapes = [shape for shape in shapes for _ in range(2)]
        # np.zeros gets zeroed pages from the kernel: a page takes memory only once a token is written to it.
        # Huge pages are zeroed whole at the first write. For float caches that costs prefill more than decode gains in
        # a short answer, so only int8 caches use them.
        if self._dtype.itemsize == 1:
            buffers = _contiguous_zeros(shapes, self._dtype)
        else:
            buffers = [np.zeros(shape, self._dtype) for shape in shapes]
        layers = list(zip(buffers[::2], buffers[1::2], strict=True))
        if used:
            for old_layer, new_layer in zip(self.layers, layers, strict=True):
                for old, new in zip(old_layer, new_layer, strict=True):
                    new[:, :, :used] = old[:, :, :used]
        self.layers = layers


def _contiguous_zeros(shapes: Sequence[tuple[int, ...]], dtype: np.dtype) -> list[NDArray]:
    """Zeroed arrays in one allocation aligned to huge pages, which numpy requests for allocations of 4 MB or more."""
    sizes = [math.prod(shape) * dtype.itemsize for shape in shapes]
    memory = np.zeros(sum(sizes) + HUGE_PAGE, dtype=np.uint8)
    offsets = itertools.accumulate(sizes, initial=-memory.ctypes.data % HUGE_PAGE)
    return [
        memory[offset : offset + size].view(dtype).reshape(shape)
        for offset, size, shape in zip(offsets, sizes, shapes, strict=False)
    ]
