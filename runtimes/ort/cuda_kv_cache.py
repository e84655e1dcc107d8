"""Keys and values in device memory, and their binding to a graph.

A layer's buffer is [B, KV, capacity, D] in binary16. The batch is outermost, so one row is a contiguous slice and can
be prefilled alone.
"""

import threading
from dataclasses import dataclass

import numpy as np
from onnxruntime import InferenceSession, IOBinding, OrtValue, RunOptions

from edgekiln.engine.manifest import GraphIO
from edgekiln.runtimes.base import Ids, Logits, Properties
from edgekiln.runtimes.kv_cache import RaggedKVCache, slice_of

KEY_VALUE_TYPE = np.dtype(np.float16)
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Launch:
    """How bound rows are run.

    Attributes:
        device: where buffers are, in ONNX Runtime's words.
        options: of each run.
        lock: held during a run.
        fixed_length: say the cache's capacity as the largest length, which stays what it is from step to step.
    """

    device: str
    options: RunOptions
    lock: threading.Lock
    fixed_length: bool


class Growth:
    """Moves a buffer to a larger one by a graph that appends zeros, without a copy over the host."""

    def __init__(self, session: InferenceSession, device: str) -> None:
        self._session = session
        self._device = device

    def grown(self, buffer: OrtValue | None, shape: Shape) -> OrtValue:
        """A buffer of `shape` that begins with what `buffer` holds along axis 2, and is zero behind it."""
        held = buffer.shape()[2] if buffer is not None else 0
        batch, heads, capacity, size = shape
        result = OrtValue.ortvalue_from_shape_and_type(list(shape), KEY_VALUE_TYPE, self._device, 0)
        binding = IOBinding(self._session)
        if buffer is None:
            binding.bind_cpu_input("past", np.zeros((batch, heads, 0, size), KEY_VALUE_TYPE))
        else:
            binding.bind_ortvalue_input("past", buffer)
        binding.bind_cpu_input("zeros", np.array([batch, heads, capacity - held, size], dtype=np.int64))
        binding.bind_ortvalue_output("present", result)
        self._session.run_with_iobinding(binding)
        return result


class DeviceCache(RaggedKVCache):
    """Keys and values of `batch_size` ragged rows on the device; see `edgekiln.runtimes.base.KVCache`."""

    def __init__(self, properties: Properties, growth: Growth, batch_size: int) -> None:
        super().__init__(properties, batch_size)
        self.layers: list[tuple[OrtValue, OrtValue]] = []
        self._growth = growth

    def _grow(self, capacity: int, held: int) -> None:
        for layer, (heads, size) in enumerate(zip(self._properties.kv_heads, self._properties.head_dims, strict=True)):
            shape = (self.batch_size, heads, capacity, size)
            # One layer at a time, so that old and new are both there for one layer only.
            if layer == len(self.layers):
                self.layers.append((self._growth.grown(None, shape), self._growth.grown(None, shape)))
            else:
                key, value = self.layers[layer]
                self.layers[layer] = (self._growth.grown(key, shape), self._growth.grown(value, shape))


class DeviceBinding:
    """One session's inputs and outputs bound to rows of a cache; see `edgekiln.runtimes.kv_cache.CacheBinding`.

    Ids, positions and logits have buffers on the device, at addresses that stay, and arrays on the host.
    """

    def __init__(
        self, session: InferenceSession, names: GraphIO, cache: DeviceCache, rows: slice, launch: Launch
    ) -> None:
        self._session = session
        self._names = names
        self._launch = launch
        self._binding = IOBinding(session)
        self._capacity = cache.capacity
        self._layers = list(cache.layers)
        for layer, (key, value) in enumerate(cache.layers):
            self._share(key, rows, names.past_key.format(layer=layer), names.present_key.format(layer=layer))
            self._share(value, rows, names.past_value.format(layer=layer), names.present_value.format(layer=layer))
        self._total = np.zeros(1, dtype=np.int32)
        assert names.total_length is not None
        self._binding.bind_ortvalue_input(names.total_length, OrtValue.ortvalue_from_numpy(self._total))
        self.input_ids: Ids = np.empty((0, 0), dtype=np.int64)
        self.position_ids: Ids = self.input_ids
        self.logits: Logits = np.empty((0, 0, 0), dtype=np.float32)

    def _share(self, buffer: OrtValue, rows: slice, past: str, present: str) -> None:
        address, shape = slice_of(buffer.data_ptr(), tuple(buffer.shape()), rows, KEY_VALUE_TYPE.itemsize)
        self._binding.bind_input(past, self._launch.device, 0, KEY_VALUE_TYPE, shape, address)
        self._binding.bind_output(present, self._launch.device, 0, KEY_VALUE_TYPE, shape, address)

    def bind(self, input_ids: Ids, position_ids: Ids, logits: Logits) -> None:
        """Read from int64[B, S] `input_ids` and `position_ids`, write to float32[B, 1 or S, V] `logits`."""
        device = self._launch.device
        self._ids = OrtValue.ortvalue_from_shape_and_type(list(input_ids.shape), np.int64, device, 0)
        self._positions = OrtValue.ortvalue_from_shape_and_type(list(position_ids.shape), np.int64, device, 0)
        self._results = OrtValue.ortvalue_from_shape_and_type(list(logits.shape), np.float32, device, 0)
        self._binding.bind_ortvalue_input(self._names.input_ids, self._ids)
        self._binding.bind_ortvalue_input(self._names.position_ids, self._positions)
        self._binding.bind_ortvalue_output(self._names.logits, self._results)
        self.input_ids, self.position_ids, self.logits = input_ids, position_ids, logits

    def run(self) -> None:
        """Run the graph on what the bound arrays hold now."""
        self._total[0] = self._capacity if self._launch.fixed_length else int(self.position_ids.max()) + 1
        with self._launch.lock:
            self._ids.update_inplace(self.input_ids)
            self._positions.update_inplace(self.position_ids)
            self._session.run_with_iobinding(self._binding, self._launch.options)
            np.copyto(self.logits, self._results.numpy())
