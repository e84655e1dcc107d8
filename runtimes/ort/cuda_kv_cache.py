"""The KV cache of the CUDA adapter, in device memory, and its IO binding.

Per layer there is one buffer for keys and one for values, float16 [B, KV, capacity, D]. The batch is the outermost
axis: one sequence is a contiguous slice and can be prefilled separately.
"""

import threading
from dataclasses import dataclass

import numpy as np

from edgekiln.engine.graph_io import GraphIO, in_layer
from edgekiln.runtimes.base import Ids, Logits, Properties
from edgekiln.runtimes.kv_cache import RaggedKVCache, batch_slice
from edgekiln.runtimes.ort.library import onnxruntime as ort

CACHE_DTYPE = np.dtype(np.float16)
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class RunConfig:
    """How a binding runs its session.

    Attributes:
        device: ONNX Runtime's name of the device that holds the buffers, "cuda" or "cpu".
        options: run options, which hold the id of the CUDA graph.
        lock: held during a run.
        fixed_length: pass the cache's capacity as `total_length` instead of the longest sequence. A CUDA graph needs
            that: it replays with the values that it was captured with.
    """

    device: str
    options: ort.RunOptions
    lock: threading.Lock
    fixed_length: bool


class GrowGraph:
    """Copies a buffer into a larger one on the device, with the engine's `grow` graph, which appends zeros."""

    def __init__(self, session: ort.InferenceSession, device: str) -> None:
        self._session = session
        self._device = device

    def grow(self, buffer: ort.OrtValue | None, shape: Shape) -> ort.OrtValue:
        """A new buffer.

        Args:
            buffer: the old buffer, [B, KV, P, D] with P below the new capacity; None for an empty one.
            shape: [B, KV, capacity, D].

        Returns:
            A float16 buffer of `shape` with the old values along axis 2, then zeros.
        """
        used = buffer.shape()[2] if buffer is not None else 0
        batch, heads, capacity, size = shape
        result = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), CACHE_DTYPE, self._device, 0)
        binding = ort.IOBinding(self._session)
        if buffer is None:
            binding.bind_cpu_input("past", np.zeros((batch, heads, 0, size), CACHE_DTYPE))
        else:
            binding.bind_ortvalue_input("past", buffer)
        binding.bind_cpu_input("zeros", np.array([batch, heads, capacity - used, size], dtype=np.int64))
        binding.bind_ortvalue_output("present", result)
        self._session.run_with_iobinding(binding)
        return result


class OrtCudaKVCache(RaggedKVCache):
    """Keys and values in device memory; see `edgekiln.runtimes.base.KVCache`.

    Attributes:
        layers: (keys, values) of each layer, both [B, KV, capacity, D].
    """

    def __init__(self, properties: Properties, grow_graph: GrowGraph, batch_size: int) -> None:
        super().__init__(properties, batch_size)
        self.layers: list[tuple[ort.OrtValue, ort.OrtValue]] = []
        self._grow_graph = grow_graph

    def _grow(self, capacity: int, used: int) -> None:
        grow = self._grow_graph.grow
        for layer, (heads, size) in enumerate(zip(self._properties.kv_heads, self._properties.head_dims, strict=True)):
            shape = (self.batch_size, heads, capacity, size)
            # Layer by layer, so that at most one layer is in memory twice.
            if layer == len(self.layers):
                self.layers.append((grow(None, shape), grow(None, shape)))
            else:
                key, value = self.layers[layer]
                self.layers[layer] = (grow(key, shape), grow(value, shape))


class OrtCudaBinding:
    """A session's inputs and outputs, bound to sequences of a KV cache; see `edgekiln.runtimes.kv_cache.CacheBinding`.

    Ids, positions and logits are arrays on the host with a copy on the device. The addresses of the copies stay the
    same from run to run, as a CUDA graph requires.
    """

    def __init__(
        self, session: ort.InferenceSession, names: GraphIO, cache: OrtCudaKVCache, sequences: slice, config: RunConfig
    ) -> None:
        self._session = session
        self._names = names
        self._config = config
        self._binding = ort.IOBinding(session)
        self._capacity = cache.capacity
        self._layers = list(cache.layers)
        for layer, (key, value) in enumerate(cache.layers):
            self._bind_in_place(key, sequences, names.past_key, names.present_key, layer)
            self._bind_in_place(value, sequences, names.past_value, names.present_value, layer)
        self._total_length = np.zeros(1, dtype=np.int32)
        assert names.total_length is not None
        self._binding.bind_ortvalue_input(names.total_length, ort.OrtValue.ortvalue_from_numpy(self._total_length))
        self.input_ids: Ids = np.empty((0, 0), dtype=np.int64)
        self.position_ids: Ids = self.input_ids
        self.logits: Logits = np.empty((0, 0, 0), dtype=np.float32)

    def _bind_in_place(self, buffer: ort.OrtValue, sequences: slice, past: str, present: str, layer: int) -> None:
        """Bind a range of a buffer's sequences as past and as present, so that the graph updates it in place."""
        address, shape = batch_slice(buffer.data_ptr(), tuple(buffer.shape()), sequences, CACHE_DTYPE.itemsize)
        device = self._config.device
        self._binding.bind_input(in_layer(past, layer), device, 0, CACHE_DTYPE, shape, address)
        self._binding.bind_output(in_layer(present, layer), device, 0, CACHE_DTYPE, shape, address)

    def bind(self, input_ids: Ids, position_ids: Ids, logits: Logits) -> None:
        """Bind int64[B, S] `input_ids` and `position_ids`, and float32[B, L, V] `logits` of the last L positions."""
        device = self._config.device
        self._device_ids = ort.OrtValue.ortvalue_from_shape_and_type(list(input_ids.shape), np.int64, device, 0)
        self._device_positions = ort.OrtValue.ortvalue_from_shape_and_type([*position_ids.shape], np.int64, device, 0)
        self._device_logits = ort.OrtValue.ortvalue_from_shape_and_type(list(logits.shape), np.float32, device, 0)
        self._binding.bind_ortvalue_input(self._names.input_ids, self._device_ids)
        self._binding.bind_ortvalue_input(self._names.position_ids, self._device_positions)
        self._binding.bind_ortvalue_output(self._names.logits, self._device_logits)
        self.input_ids, self.position_ids, self.logits = input_ids, position_ids, logits

    def run(self) -> None:
        """Copy ids and positions to the device, run the graph, and copy the logits back."""
        self._total_length[0] = self._capacity if self._config.fixed_length else int(self.position_ids.max()) + 1
        with self._config.lock:
            self._device_ids.update_inplace(self.input_ids)
            self._device_positions.update_inplace(self.position_ids)
            self._session.run_with_iobinding(self._binding, self._config.options)
            np.copyto(self.logits, self._device_logits.numpy())
