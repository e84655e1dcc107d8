"""The KV cache of the CPU adapter: per layer one buffer for keys and one for values, [B, KV, capacity, D].

Each buffer is bound as past and as present, so the graph appends in place. Attention reads only the positions below a
sequence's length, so a rewind changes no buffer. The batch is the outermost axis: one sequence is a contiguous slice
and can be prefilled separately. Sliding-window layers have window buffers (`edgekiln.runtimes.window_buffer`), and
states have two buffers each (`edgekiln.runtimes.states`).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgekiln.runtimes.base import Ids
from edgekiln.runtimes.kv_cache import CacheBinding, RaggedKVCache
from edgekiln.runtimes.ort.states import OrtStates
from edgekiln.runtimes.ort.zeroed_arrays import release_pages, use_small_pages, zeroed_arrays
from edgekiln.runtimes.properties import Properties
from edgekiln.runtimes.window_buffer import WindowBuffer


class OrtKVCache(RaggedKVCache):
    """Keys, values and states in numpy arrays; see `edgekiln.runtimes.base.KVCache`.

    Attributes:
        layers: (keys, values) of each KV cache layer, both [B, KV, capacity, D] of the engine's cache type.
        prompt_bindings: bindings for runs of a prompt by batch index; dropped when the storage moves.
        states: None if the engine has none.
        window_starts: window -> int64[B], the position of the first slot of its buffers; bound to the graph.
    """

    can_save = True
    is_paged = True

    def __init__(self, properties: Properties, dtype: np.dtype, batch_size: int, chunk: int) -> None:
        """Make a cache for runs of up to `chunk` tokens a sequence."""
        self.states: OrtStates | None
        super().__init__(
            properties, batch_size, OrtStates(properties.states, batch_size) if properties.states else None
        )
        self.layers: list[tuple[NDArray, NDArray]] = []
        self.prompt_bindings: dict[int, CacheBinding] = {}
        self._dtype = dtype
        self._windows = properties.windows or (0,) * len(properties.kv_heads)
        self._buffers = {window: WindowBuffer.of(window, chunk) for window in sorted(set(self._windows) - {0})}
        self.window_starts: dict[int, Ids] = {window: np.zeros(batch_size, np.int64) for window in self._buffers}

    def held(self, sequence: int, layer: int, first: int) -> tuple[NDArray, NDArray]:
        """Keys and values [KV, N, D] of one sequence from position `first` on, which the layer must still hold."""
        starts = self.window_starts.get(self._windows[layer])
        start = 0 if starts is None else int(starts[sequence])
        slots = slice(first - start, int(self.lengths[sequence]) - start)
        keys, values = self.layers[layer]
        return keys[sequence, :, slots], values[sequence, :, slots]

    def rewind(self, sequence: int, length: int) -> int:
        """Drop tokens from the end of one sequence; see `edgekiln.runtimes.base.KVCache`."""
        left = super().rewind(sequence, length)
        if not left:
            for starts in self.window_starts.values():
                starts[sequence] = 0
        return left

    def make_room(self, sequences: Iterable[int], new: int) -> None:
        """Move window buffers in which these sequences have no room for `new` more tokens."""
        for window, buffer in self._buffers.items():
            starts = self.window_starts[window]
            for sequence in sequences:
                length, start = int(self.lengths[sequence]), int(starts[sequence])
                first = buffer.start_for(start, length, new)
                if first == start:
                    continue
                try:
                    self._move(window, sequence, slice(first - start, length - start))
                    starts[sequence] = first
                except BaseException:  # an interrupt, after some layers
                    self.rewind(sequence, 0)
                    raise

    def _move(self, window: int, sequence: int, kept: slice) -> None:
        """Move slots `kept` of one sequence to the front of the buffers of a window."""
        for layer, of_layer in zip(self.layers, self._windows, strict=True):
            for part in layer if of_layer == window else ():
                for head in part[sequence]:
                    head[: kept.stop - kept.start] = head[kept]

    def release(self, sequence: int) -> None:
        """Drop all tokens of a sequence, and its memory; see `edgekiln.runtimes.base.KVCache`."""
        self.rewind(sequence, 0)
        for layer in self.layers:
            for part in layer:
                release_pages(part[sequence])

    def _swap(self, first: int, second: int) -> None:
        pair = [first, second]
        for layer, window in zip(self.layers, self._windows, strict=True):
            slots = int((self.lengths[pair] - self._starts(window)[pair]).max())
            for part in layer:
                for head_of_first, head_of_second in zip(part[first], part[second], strict=True):
                    kept = head_of_first[:slots].copy()
                    head_of_first[:slots] = head_of_second[:slots]
                    head_of_second[:slots] = kept
        for starts in self.window_starts.values():
            starts[pair] = starts[pair[::-1]]

    def _copy(self, source: int, target: int, length: int) -> None:
        for layer, window in zip(self.layers, self._windows, strict=True):
            slots = int(self.lengths[source] - self._starts(window)[source]) if window else length
            for part in layer:
                part[target, :, :slots] = part[source, :, :slots]
        for starts in self.window_starts.values():
            starts[target] = starts[source]

    def _save(self, sequence: int) -> list[NDArray]:
        arrays: list[NDArray] = [np.array([int(starts[sequence]) for starts in self.window_starts.values()], np.int64)]
        for layer, window in zip(self.layers, self._windows, strict=True):
            slots = int(self.lengths[sequence] - self._starts(window)[sequence])
            arrays += [part[sequence, :, :slots].copy() for part in layer]
        return arrays

    def _load(self, sequence: int, length: int, arrays: list[NDArray]) -> None:
        first, *parts = arrays
        for starts, start in zip(self.window_starts.values(), first.tolist(), strict=True):
            starts[sequence] = start
        for index, (layer, window) in enumerate(zip(self.layers, self._windows, strict=True)):
            slots = int(length - self._starts(window)[sequence])
            for part, saved in zip(layer, parts[2 * index : 2 * index + 2], strict=True):
                if saved.dtype != part.dtype:
                    raise ValueError
                part[sequence, :, :slots] = saved

    def _starts(self, window: int) -> Ids:
        """int64[B], the position of the first slot of the buffers of a window; zeros for 0, no window."""
        return self.window_starts[window] if window else np.zeros(self.batch_size, np.int64)

    def _holds(self, sequence: int, length: int) -> bool:
        return all(
            buffer.holds(int(self.window_starts[window][sequence]), length) for window, buffer in self._buffers.items()
        )

    def _grow(self, capacity: int, used: int) -> None:
        sizes = zip(self._properties.kv_heads, self._properties.head_dims, self._windows, strict=True)
        shapes = [
            (self.batch_size, heads, min(capacity, self._buffers[window].capacity) if window else capacity, size)
            for heads, size, window in sizes
        ]
        shapes = [shape for shape in shapes for _ in range(2)]
        self.prompt_bindings.clear()
        # np.zeros gets zeroed pages from the kernel: a page takes memory only once a token is written to it.
        # Huge pages are zeroed whole at the first write. For float caches that costs prefill more than decode gains in
        # a short answer, so only int8 caches use them.
        if self._dtype.itemsize == 1 and not self.sparse:
            buffers = zeroed_arrays(shapes, [self._dtype] * len(shapes))
        else:
            buffers = [np.zeros(shape, self._dtype) for shape in shapes]
        if self.sparse:
            for buffer in buffers:
                use_small_pages(buffer)  # numpy asks for huge pages from 4 MB on
        layers = list(zip(buffers[::2], buffers[1::2], strict=True))
        if used:
            for old_layer, new_layer in zip(self.layers, layers, strict=True):
                for old, new in zip(old_layer, new_layer, strict=True):
                    new[:, :, : min(used, old.shape[2])] = old[:, :, :used]
        self.layers = layers
