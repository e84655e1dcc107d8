"""IO binding of the CPU adapter: the graph reads and writes numpy arrays directly, without a copy."""

import numpy as np
from numpy.typing import NDArray

from edgekiln.engine.graph_io import GraphIO, in_layer, of_state, of_window
from edgekiln.runtimes.base import Ids, Logits
from edgekiln.runtimes.ort.kv_cache import OrtKVCache
from edgekiln.runtimes.ort.library import onnxruntime as ort


class OrtBinding:
    """A session's inputs and outputs, bound to sequences of a KV cache; see `edgekiln.runtimes.kv_cache.CacheBinding`.

    Binding costs a few microseconds per name, and a graph has four names per layer, so the cache is bound once and only
    ids, positions and logits are bound again. States alternate between two buffers, so an engine with states has a
    binding for each direction. ONNX Runtime does not own the bound memory: this object keeps references to the arrays.
    """

    def __init__(self, session: ort.InferenceSession, names: GraphIO, cache: OrtKVCache, sequences: slice) -> None:
        self._session = session
        self._names = names
        self._cache = cache
        self._sequences = range(*sequences.indices(cache.batch_size))
        self._bindings = [ort.IOBinding(session) for _ in range(2 if cache.states else 1)]
        self._arrays: list[NDArray] = []
        for layer, (key, value) in enumerate(cache.layers):
            self._bind_in_place(key[sequences], names.past_key, names.present_key, layer)
            self._bind_in_place(value[sequences], names.past_value, names.present_value, layer)
        if cache.states:
            self._bind_states([[array[sequences] for array in buffer] for buffer in cache.states.buffers])
        for window, starts in cache.window_starts.items():
            assert names.window_start is not None
            start = starts[sequences]
            self._bind_input(of_window(names.window_start, window), start)
            self._arrays.append(start)
        if names.sequence_length is not None:
            lengths = cache.sequence_lengths[sequences]
            self._bind_input(names.sequence_length, lengths)
            self._arrays.append(lengths)
        self._logits_to_keep: Ids = np.ones(1, dtype=np.int64)
        if names.logits_to_keep is not None:
            self._bind_input(names.logits_to_keep, self._logits_to_keep)
        self.input_ids: Ids = np.empty((0, 0), dtype=np.int64)
        self.position_ids: Ids = self.input_ids
        self.logits: Logits = np.empty((0, 0, 0), dtype=np.float32)

    def _bind_in_place(self, array: NDArray, past: str, present: str, layer: int) -> None:
        """Bind one array as past and as present, so that the graph updates it in place."""
        self._bind_input(in_layer(past, layer), array)
        self._bind_output(in_layer(present, layer), array)
        self._arrays.append(array)

    def _bind_states(self, buffers: list[list[NDArray]]) -> None:
        """Bind each of two buffers as past in one binding, and as present in the other one."""
        names = self._names
        for front, back, binding in zip(buffers, reversed(buffers), self._bindings, strict=True):
            for state, (past, present) in enumerate(zip(front, back, strict=True)):
                value = ort.OrtValue.ortvalue_from_numpy(past)
                binding.bind_ortvalue_input(of_state(names.past_state, state), value)
                value = ort.OrtValue.ortvalue_from_numpy(present)
                binding.bind_ortvalue_output(of_state(names.present_state, state), value)
            self._arrays += front

    def _bind_input(self, name: str, array: NDArray) -> None:
        value = ort.OrtValue.ortvalue_from_numpy(array)
        for binding in self._bindings:
            binding.bind_ortvalue_input(name, value)

    def _bind_output(self, name: str, array: NDArray) -> None:
        value = ort.OrtValue.ortvalue_from_numpy(array)
        for binding in self._bindings:
            binding.bind_ortvalue_output(name, value)

    def bind(self, input_ids: Ids, position_ids: Ids, logits: Logits) -> None:
        """Bind int64[B, S] `input_ids` and `position_ids`, and float32[B, L, V] `logits` of the last L positions."""
        self._bind_input(self._names.input_ids, input_ids)
        self._bind_input(self._names.position_ids, position_ids)
        self._bind_output(self._names.logits, logits)
        self._logits_to_keep[0] = logits.shape[1]
        self.input_ids, self.position_ids, self.logits = input_ids, position_ids, logits

    def run(self) -> None:
        """Run the graph on the current contents of the bound arrays."""
        self._cache.make_room(self._sequences, self.input_ids.shape[1])
        front = self._cache.begin_run(self._sequences)
        self._session.run_with_iobinding(self._bindings[front])
