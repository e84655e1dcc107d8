"""The states of the CPU adapter, in numpy arrays; see `edgekiln.runtimes.states`."""

from collections.abc import Sequence

from numpy.typing import NDArray

from edgekiln.runtimes.ort.zeroed_arrays import zeroed_arrays
from edgekiln.runtimes.properties import StateProperties
from edgekiln.runtimes.states import States


class OrtStates(States):
    """States in numpy arrays.

    Attributes:
        buffers: two lists with an array [B, ...] for each state; empty until `allocate`.
    """

    def __init__(self, states: Sequence[StateProperties], batch_size: int) -> None:
        super().__init__(batch_size)
        self.buffers: list[list[NDArray]] = [[], []]
        self._states = states
        self._batch_size = batch_size

    def allocate(self) -> None:
        """Allocate both buffers, if they are not there."""
        if not self.buffers[0]:
            shapes = [(self._batch_size, *state.shape) for state in self._states]
            dtypes = [state.dtype for state in self._states]
            self.buffers = [zeroed_arrays(shapes, dtypes) for _ in range(2)]
            self._begin_zeroed()

    def _save(self, sequence: int, buffer: int) -> list[NDArray]:
        return [array[sequence].copy() for array in self.buffers[buffer]]

    def _load(self, sequence: int, buffer: int, states: list[NDArray]) -> None:
        for array, state in zip(self.buffers[buffer], states, strict=True):
            array[sequence] = state

    def _clear(self, sequence: int, buffer: int) -> None:
        for array in self.buffers[buffer]:
            array[sequence] = 0

    def _copy(self, sequence: int, source: int, target: int) -> None:
        for past, present in zip(self.buffers[source], self.buffers[target], strict=True):
            present[sequence] = past[sequence]
