"""The states of the CUDA adapter, in device memory; see `edgekiln.runtimes.states`. Snapshots are in host memory."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekiln.runtimes.ort.grow_graph import GrowGraph
from edgekiln.runtimes.ort.library import onnxruntime as ort
from edgekiln.runtimes.properties import StateProperties
from edgekiln.runtimes.states import States


class OrtCudaStates(States):
    """States in device memory, which the engine's `grow` graph copies and clears.

    Attributes:
        properties: shape and type of each state.
        buffers: two lists with a tensor [B, ...] for each state; empty until `allocate`.
    """

    def __init__(self, states: Sequence[StateProperties], grow_graph: GrowGraph, batch_size: int) -> None:
        super().__init__(batch_size)
        self.buffers: list[list[ort.OrtValue]] = [[], []]
        self.properties = states
        self._grow_graph = grow_graph
        self._batch_size = batch_size

    def allocate(self) -> None:
        """Allocate both buffers, if they are not there."""
        if not self.buffers[0]:
            self.buffers = [[self._tensor(state) for state in self.properties] for _ in range(2)]

    def _tensor(self, state: StateProperties) -> ort.OrtValue:
        shape = [self._batch_size, *state.shape]
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, state.dtype, self._grow_graph.device, 0)

    def _places(self, sequence: int, buffer: int) -> list[tuple[int, int]]:
        """Address and bytes of each state of a sequence in a buffer."""
        places = []
        for tensor, state in zip(self.buffers[buffer], self.properties, strict=True):
            places.append((tensor.data_ptr() + sequence * state.nbytes, state.nbytes))
        return places

    def _save(self, sequence: int, buffer: int) -> list[NDArray]:
        saved = []
        for address, size in self._places(sequence, buffer):
            state = np.empty(size, dtype=np.uint8)
            self._grow_graph.copy((self._grow_graph.device, address), ("cpu", state.ctypes.data), size)
            saved.append(state)
        return saved

    def _load(self, sequence: int, buffer: int, states: list[NDArray]) -> None:
        for (address, size), state in zip(self._places(sequence, buffer), states, strict=True):
            self._grow_graph.copy(("cpu", state.ctypes.data), (self._grow_graph.device, address), size)

    def _clear(self, sequence: int, buffer: int) -> None:
        for address, size in self._places(sequence, buffer):
            self._grow_graph.copy(None, (self._grow_graph.device, address), size)

    def _copy(self, sequence: int, source: int, target: int) -> None:
        for (past, size), (present, _) in zip(
            self._places(sequence, source), self._places(sequence, target), strict=True
        ):
            self._grow_graph.copy((self._grow_graph.device, past), (self._grow_graph.device, present), size)
