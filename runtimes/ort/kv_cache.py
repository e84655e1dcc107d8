"""The key-value cache of the ONNX Runtime adapter: one buffer a layer, bound to the graph as past and as present.

The graph writes new keys and values in place and reads no position a row does not hold, so growing and rewinding are
bookkeeping. A layer's buffer is [B, KV, capacity, D]; the batch is outermost, so one row is a contiguous slice and can
be prefilled alone.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, IOBinding, OrtValue

from edgekiln.engine.manifest import GraphIO
from edgekiln.runtimes.base import Ids, Logits, Properties
from edgekiln.runtimes.kv_cache import RaggedKVCache

HUGE_PAGE = 2 << 20


class OrtCache(RaggedKVCache):
    """Keys and values of `batch_size` ragged rows, allocated as tokens come; see `edgekiln.runtimes.base.KVCache`."""

    def __init__(self, properties: Properties, dtype: np.dtype, batch_size: int) -> None:
        super().__init__(properties, batch_size)
        self.layers: list[tuple[NDArray, NDArray]] = []
        self._dtype = dtype

    def _grow(self, capacity: int, held: int) -> None:
        shapes = [
            (self.batch_size, heads, capacity, size)
            for heads, size in zip(self._properties.kv_heads, self._properties.head_dims, strict=True)
        ]
        shapes = [shape for shape in shapes for _ in range(2)]
        # Zeros come from calloc: a page costs memory only once a token is written to it.
        # Huge pages are cleared whole when they are first touched. Of floats that costs a prompt more than it saves
        # the tokens of a short answer.
        together = self._dtype.itemsize == 1
        buffers = (
            _one_after_another(shapes, self._dtype) if together else [np.zeros(shape, self._dtype) for shape in shapes]
        )
        layers = list(zip(buffers[::2], buffers[1::2], strict=True))
        if held:
            for old, new in zip(self.layers, layers, strict=True):
                for before, after in zip(old, new, strict=True):
                    after[:, :, :held] = before[:, :, :held]
        self.layers = layers


def _one_after_another(shapes: Sequence[tuple[int, ...]], dtype: np.dtype) -> list[NDArray]:
    """Arrays of zeros in one allocation, which numpy asks to be mapped in huge pages from 4 MB on."""
    sizes = [math.prod(shape) * dtype.itemsize for shape in shapes]
    memory = np.zeros(sum(sizes) + HUGE_PAGE, dtype=np.uint8)
    ends = itertools.accumulate(sizes, initial=-memory.ctypes.data % HUGE_PAGE)
    return [
        memory[end : end + size].view(dtype).reshape(shape)
        for end, size, shape in zip(ends, sizes, shapes, strict=False)
    ]


class Binding:
    """One session's inputs and outputs bound to rows of a cache, reused from run to run.

    Binding costs a few microseconds a name and a model has four names a layer, so only what changes is bound again.
    It owns references to every array it binds: ONNX Runtime reads and writes their memory directly.
    """

    def __init__(self, session: InferenceSession, names: GraphIO, cache: OrtCache, rows: slice) -> None:
        self._session = session
        self._names = names
        self._binding = IOBinding(session)
        self._arrays: list[NDArray] = []
        for layer, (key, value) in enumerate(cache.layers):
            self._share(key[rows], names.past_key.format(layer=layer), names.present_key.format(layer=layer))
            self._share(value[rows], names.past_value.format(layer=layer), names.present_value.format(layer=layer))
        self._logits_to_keep = np.ones(1, dtype=np.int64)
        if names.logits_to_keep is not None:
            self._binding.bind_ortvalue_input(names.logits_to_keep, OrtValue.ortvalue_from_numpy(self._logits_to_keep))
        self.input_ids: Ids = np.empty((0, 0), dtype=np.int64)
        self.position_ids: Ids = self.input_ids
        self.logits: Logits = np.empty((0, 0, 0), dtype=np.float32)

    def _share(self, array: NDArray, past: str, present: str) -> None:
        value = OrtValue.ortvalue_from_numpy(array)
        self._binding.bind_ortvalue_input(past, value)
        self._binding.bind_ortvalue_output(present, value)
        self._arrays.append(array)

    def bind(self, input_ids: Ids, position_ids: Ids, logits: Logits) -> None:
        """Read from int64[B, S] `input_ids` and `position_ids`, write to float32[B, 1 or S, V] `logits`."""
        self._binding.bind_ortvalue_input(self._names.input_ids, OrtValue.ortvalue_from_numpy(input_ids))
        self._binding.bind_ortvalue_input(self._names.position_ids, OrtValue.ortvalue_from_numpy(position_ids))
        self._binding.bind_ortvalue_output(self._names.logits, OrtValue.ortvalue_from_numpy(logits))
        self._logits_to_keep[0] = logits.shape[1]
        self.input_ids, self.position_ids, self.logits = input_ids, position_ids, logits

    def run(self) -> None:
        """Run the graph on what is bound."""
        self._session.run_with_iobinding(self._binding)
