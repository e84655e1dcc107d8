"""IO binding of the CPU adapter: the graph reads and writes numpy arrays directly, without a copy."""

import numpy as np
from numpy.typing import NDArray

from edgekiln.engine.graph_io import GraphIO, in_layer, of_window
from edgekiln.runtimes.base import Ids, Logits
from edgekiln.runtimes.ort.kv_cache import OrtKVCache
from edgekiln.runtimes.ort.library import onnxruntime as ort


class OrtBinding:
    """A session's inputs and outputs, bound to sequences of a KV cache; see `edgekiln.runtimes.kv_cache.CacheBinding`.

    Binding costs a few microseconds per name, and a graph has four names per layer, so the cache is bound once and only
    ids, positions and logits are bound again. ONNX Runtime does not own the bound memory: this object keeps references
    to the arrays.
    """

    def __init__(self, session: ort.InferenceSession, names: GraphIO, cache: OrtKVCache, sequences: slice) -> None:
        self._session = session
        self._names = names
        self._cache = cache
        self._sequences = range(*sequences.indices(cache.batch_size))
        self._binding = ort.IOBinding(session)
        self._arrays: list[NDArray] = []
        for layer, (key, value) in enumerate(cache.layers):
            self._bind_in_place(key[sequences], names.past_key, names.present_key, layer)
            self._bind_in_place(value[sequences], names.past_value, names.present_value, layer)
        for window, starts in cache.window_starts.items():
            assert names.window_start is not None
            start = starts[sequences]
            self._binding.bind_ortvalue_input(
                of_window(names.window_start, window), ort.OrtValue.ortvalue_from_numpy(start)
            )
            self._arrays.append(start)
        self._logits_to_keep: Ids = np.ones(1, dtype=np.int64)
        if names.logits_to_keep is not None:
            self._binding.bind_ortvalue_input(
                names.logits_to_keep, ort.OrtValue.ortvalue_from_numpy(self._logits_to_keep)
            )
        self.input_ids: Ids = np.empty((0, 0), dtype=np.int64)
        self.position_ids: Ids = self.input_ids
        self.logits: Logits = np.empty((0, 0, 0), dtype=np.float32)

    def _bind_in_place(self, array: NDArray, past: str, present: str, layer: int) -> None:
        """Bind one array as past and as present, so that the graph updates it in place."""
        value = ort.OrtValue.ortvalue_from_numpy(array)
        self._binding.bind_ortvalue_input(in_layer(past, layer), value)
        self._binding.bind_ortvalue_output(in_layer(present, layer), value)
        self._arrays.append(array)

    def bind(self, input_ids: Ids, position_ids: Ids, logits: Logits) -> None:
        """Bind int64[B, S] `input_ids` and `position_ids`, and float32[B, L, V] `logits` of the last L positions."""
        self._binding.bind_ortvalue_input(self._names.input_ids, ort.OrtValue.ortvalue_from_numpy(input_ids))
        self._binding.bind_ortvalue_input(self._names.position_ids, ort.OrtValue.ortvalue_from_numpy(position_ids))
        self._binding.bind_ortvalue_output(self._names.logits, ort.OrtValue.ortvalue_from_numpy(logits))
        self._logits_to_keep[0] = logits.shape[1]
        self.input_ids, self.position_ids, self.logits = input_ids, position_ids, logits

    def run(self) -> None:
        """Run the graph on the current contents of the bound arrays."""
        self._cache.make_room(self._sequences, self.input_ids.shape[1])
        self._session.run_with_iobinding(self._binding)
