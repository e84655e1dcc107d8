"""The KV cache of the CUDA adapter, in device memory, and its IO binding.

Per layer there is one buffer for keys and one for values, float16 [B, KV, capacity, D], and two buffers per state. The
batch is the outermost axis: one sequence is a contiguous slice and can be prefilled separately.
"""

import math
import threading
import weakref
from dataclasses import dataclass

import numpy as np

from edgekiln.engine.graph_io import GraphIO, in_layer, of_state
from edgekiln.runtimes.base import Ids, Logits
from edgekiln.runtimes.kv_cache import RaggedKVCache, batch_slice
from edgekiln.runtimes.ort.cuda_states import OrtCudaStates
from edgekiln.runtimes.ort.grow_graph import CACHE_DTYPE, GrowGraph
from edgekiln.runtimes.ort.library import onnxruntime as ort
from edgekiln.runtimes.properties import Properties


@dataclass(frozen=True)
class RunConfig:
    """How a binding runs its session.

    Attributes:
        device: ONNX Runtime's name of the device that holds the buffers, "cuda" or "cpu".
        options: run options, which hold the id of the CUDA graph; with states, for each of the two directions of a run.
        lock: held during a run.
        fixed_length: pass the cache's capacity as `total_length` instead of the longest sequence. A CUDA graph needs
            that: it replays with the values that it was captured with.
    """

    device: str
    options: list[ort.RunOptions]
    lock: threading.Lock
    fixed_length: bool


class OrtCudaKVCache(RaggedKVCache):
    """Keys, values and states in device memory; see `edgekiln.runtimes.base.KVCache`.

    Attributes:
        layers: (keys, values) of each KV cache layer, both [B, KV, capacity, D].
        states: None if the engine has none.
    """

    def __init__(self, properties: Properties, grow_graph: GrowGraph, batch_size: int) -> None:
        self.states: OrtCudaStates | None
        states = OrtCudaStates(properties.states, grow_graph, batch_size) if properties.states else None
        super().__init__(properties, batch_size, states)
        self.layers: list[tuple[ort.OrtValue, ort.OrtValue]] = []
        self._grow_graph = grow_graph

    def _swap(self, first: int, second: int) -> None:
        copy, device = self._grow_graph.copy, self._grow_graph.device
        for layer in self.layers:
            for buffer in layer:
                one, other, size = *self._places(buffer, first, second), self._sequence_bytes(buffer)
                kept = ort.OrtValue.ortvalue_from_shape_and_type(buffer.shape()[1:], CACHE_DTYPE, device, 0)
                copy((device, one), (device, kept.data_ptr()), size)
                copy((device, other), (device, one), size)
                copy((device, kept.data_ptr()), (device, other), size)

    def _copy(self, source: int, target: int, length: int) -> None:
        device = self._grow_graph.device
        for layer in self.layers:
            for buffer in layer:
                one, other = self._places(buffer, source, target)
                self._grow_graph.copy((device, one), (device, other), self._sequence_bytes(buffer))

    def _sequence_bytes(self, buffer: ort.OrtValue) -> int:
        return math.prod(buffer.shape()[1:]) * CACHE_DTYPE.itemsize

    def _places(self, buffer: ort.OrtValue, first: int, second: int) -> tuple[int, int]:
        """Addresses of two sequences of a buffer."""
        address, size = buffer.data_ptr(), self._sequence_bytes(buffer)
        return address + first * size, address + second * size

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
    same from run to run, as a CUDA graph requires. With states there is a binding, and a CUDA graph, for each of the
    two directions between their buffers.
    """

    def __init__(
        self, session: ort.InferenceSession, names: GraphIO, cache: OrtCudaKVCache, sequences: slice, config: RunConfig
    ) -> None:
        self._session = session
        self._names = names
        self._config = config
        self._bindings = [ort.IOBinding(session) for _ in config.options]
        # The cache keeps the binding; without a cycle, device memory is freed with the last reference to the cache.
        self._cache = weakref.proxy(cache)
        self._states = cache.states
        self._sequences = range(*sequences.indices(cache.batch_size))
        self._capacity = cache.capacity
        self._layers = list(cache.layers)
        for layer, (key, value) in enumerate(cache.layers):
            self._bind_in_place(key, sequences, names.past_key, names.present_key, layer)
            self._bind_in_place(value, sequences, names.past_value, names.present_value, layer)
        if cache.states:
            self._bind_states(cache.states, sequences)
        self._total_length = np.zeros(1, dtype=np.int32)
        assert names.total_length is not None
        for binding in self._bindings:
            binding.bind_ortvalue_input(names.total_length, ort.OrtValue.ortvalue_from_numpy(self._total_length))
        self.input_ids: Ids = np.empty((0, 0), dtype=np.int64)
        self.position_ids: Ids = self.input_ids
        self.logits: Logits = np.empty((0, 0, 0), dtype=np.float32)

    def _bind_in_place(self, buffer: ort.OrtValue, sequences: slice, past: str, present: str, layer: int) -> None:
        """Bind a range of a buffer's sequences as past and as present, so that the graph updates it in place."""
        address, shape = batch_slice(buffer.data_ptr(), tuple(buffer.shape()), sequences, CACHE_DTYPE.itemsize)
        device = self._config.device
        for binding in self._bindings:
            binding.bind_input(in_layer(past, layer), device, 0, CACHE_DTYPE, shape, address)
            binding.bind_output(in_layer(present, layer), device, 0, CACHE_DTYPE, shape, address)

    def _bind_states(self, states: OrtCudaStates, sequences: slice) -> None:
        """Bind each of two buffers as past in one binding, and as present in the other one."""
        names, device = self._names, self._config.device
        for buffer, tensors in enumerate(states.buffers):
            for index, (tensor, state) in enumerate(zip(tensors, states.properties, strict=True)):
                address, shape = batch_slice(tensor.data_ptr(), tuple(tensor.shape()), sequences, state.dtype.itemsize)
                past, present = (of_state(name, index) for name in (names.past_state, names.present_state))
                self._bindings[buffer].bind_input(past, device, 0, state.dtype, shape, address)
                self._bindings[1 - buffer].bind_output(present, device, 0, state.dtype, shape, address)

    def bind(self, input_ids: Ids, position_ids: Ids, logits: Logits) -> None:
        """Bind int64[B, S] `input_ids` and `position_ids`, and float32[B, L, V] `logits` of the last L positions."""
        device = self._config.device
        self._device_ids = ort.OrtValue.ortvalue_from_shape_and_type(list(input_ids.shape), np.int64, device, 0)
        self._device_positions = ort.OrtValue.ortvalue_from_shape_and_type([*position_ids.shape], np.int64, device, 0)
        self._device_logits = ort.OrtValue.ortvalue_from_shape_and_type(list(logits.shape), np.float32, device, 0)
        for binding in self._bindings:
            binding.bind_ortvalue_input(self._names.input_ids, self._device_ids)
            binding.bind_ortvalue_input(self._names.position_ids, self._device_positions)
            binding.bind_ortvalue_output(self._names.logits, self._device_logits)
        self.input_ids, self.position_ids, self.logits = input_ids, position_ids, logits

    def run(self) -> None:
        """Copy ids and positions to the device, run the graph, and copy the logits back."""
        self._total_length[0] = self._capacity if self._config.fixed_length else int(self.position_ids.max()) + 1
        front = self._cache.begin_run(self._sequences)
        with self._config.lock:
            self._device_ids.update_inplace(self.input_ids)
            self._device_positions.update_inplace(self.position_ids)
            self._session.run_with_iobinding(self._bindings[front], self._config.options[front])
            np.copyto(self.logits, self._device_logits.numpy())
