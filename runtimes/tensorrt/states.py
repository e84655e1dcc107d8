"""The states of the TensorRT adapter, in device memory; see `edgekiln.runtimes.states`.

Snapshots are in host memory.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekiln.engine.graph_io import GraphIO, of_state
from edgekiln.errors import RequestError
from edgekiln.runtimes.cuda.device import ALIGNMENT, Buffer, Device, Pinned
from edgekiln.runtimes.properties import StateProperties
from edgekiln.runtimes.states import States
from edgekiln.runtimes.tensorrt.session import Tensors

_PURPOSE = "the states of recurrent layers"


class TensorRTStates(States):
    """States in device memory, a buffer [B, ...] of each state in each of the two directions.

    Attributes:
        buffers: two lists with a buffer for each state; empty until `allocate`.
    """

    def __init__(self, states: Sequence[StateProperties], device: Device, batch_size: int) -> None:
        """Make the states of `batch_size` sequences.

        Raises:
            RequestError: TensorRT cannot take the sequences of the batch one by one.
        """
        super().__init__(batch_size)
        for number, state in enumerate(states):
            if batch_size > 1 and state.nbytes % ALIGNMENT:
                raise RequestError(
                    f"state {number} of a sequence has {state.nbytes} bytes, no multiple of {ALIGNMENT}, so the "
                    "sequences of a batch cannot be prefilled separately: use a batch of 1"
                )
        self.buffers: list[list[Buffer]] = [[], []]
        self._staging: Pinned
        self._properties = states
        self._device = device
        self._batch_size = batch_size

    def allocate(self) -> None:
        """Allocate both buffers, if they are not there."""
        if self.buffers[0]:
            return
        sizes = [self._batch_size * state.nbytes for state in self._properties]
        buffers = [[self._device.allocate(size, _PURPOSE) for size in sizes] for _ in range(2)]
        for buffer in buffers[0] + buffers[1]:
            # A decode step also computes the rows of paused sequences, whose states may never have been written.
            self._device.zero(buffer)
        self._staging = self._device.pinned((sum(state.nbytes for state in self._properties),), np.uint8)
        self.buffers = buffers
        self._begin_zeroed()

    def tensors(self, io: GraphIO, front: int, sequences: range) -> Tensors:
        """Addresses of past and present states, and shapes of the past ones, of a range of sequences.

        Args:
            io: names of the graph's inputs and outputs.
            front: the buffer that the run reads, 0 or 1.
            sequences: batch indices.
        """
        addresses, shapes = {}, {}
        for number, state in enumerate(self._properties):
            past, present = (of_state(name, number) for name in (io.past_state, io.present_state))
            offset = sequences.start * state.nbytes
            addresses[past] = self.buffers[front][number].address + offset
            addresses[present] = self.buffers[1 - front][number].address + offset
            shapes[past] = (len(sequences), *state.shape)
        return Tensors(addresses, shapes)

    def _staged(self) -> list[NDArray]:
        """Views of the page-locked memory for a sequence's states, which copies to and from the device go through."""
        ends = np.cumsum([state.nbytes for state in self._properties])
        return np.split(self._staging.array, ends[:-1])

    def _places(self, sequence: int, buffer: int) -> list[tuple[int, int]]:
        """Address and bytes of each state of a sequence in a buffer."""
        return [
            (memory.address + sequence * state.nbytes, state.nbytes)
            for memory, state in zip(self.buffers[buffer], self._properties, strict=True)
        ]

    def _save(self, sequence: int, buffer: int) -> list[NDArray]:
        staged = self._staged()
        for (address, _), state in zip(self._places(sequence, buffer), staged, strict=True):
            self._device.copy_out(state, address)
        self._device.synchronize()
        return [state.copy() for state in staged]

    def _load(self, sequence: int, buffer: int, states: list[NDArray]) -> None:
        for (address, _), state, staged in zip(self._places(sequence, buffer), states, self._staged(), strict=True):
            staged[:] = state
            self._device.copy_in(address, staged)
        self._device.synchronize()

    def _clear(self, sequence: int, buffer: int) -> None:
        for address, size in self._places(sequence, buffer):
            self._device.zero(Buffer(address, size))

    def _copy(self, sequence: int, source: int, target: int) -> None:
        pairs = zip(self._places(sequence, source), self._places(sequence, target), strict=True)
        for (past, size), (present, _) in pairs:
            self._device.copy_2d((present, size), (past, size), size, 1)
