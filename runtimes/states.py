"""The states of a batch of sequences: two buffers of each state, between which runs alternate, and snapshots.

A run reads one of the buffers, the front, and writes the other one, since kernels may read the past after they have
written the present. So a decode step copies no state: the next one runs in the other direction. A run of one sequence
of a batch leaves that sequence in another buffer than the rest; the next step copies it.

A buffer is known by the length of the sequence whose states it holds, and what is longer than the sequence is stale. So
an interrupt at any time, and a run that failed, leave the states of the tokens that the cache has recorded.

Twin of cpp/src/runtime/states.h, which holds a single sequence.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from numpy.typing import NDArray

from edgekiln.runtimes.snapshots import Snapshots

_NONE: Final = -1  # length of a buffer that holds the states of no sequence


class States(ABC):
    """Which buffer, or snapshot, holds the states of each sequence. Subclasses own the memory.

    Attributes:
        snapshots: of each sequence.
    """

    def __init__(self, batch_size: int) -> None:
        self.snapshots = [Snapshots() for _ in range(batch_size)]
        # [buffer][sequence] -> number of tokens whose states the buffer holds.
        self._lengths = [[_NONE] * batch_size for _ in range(2)]
        self._back = 0  # the buffer that the last run wrote

    def begin_run(self, sequences: Sequence[int], lengths: Sequence[int]) -> int:
        """Bring the states of sequences into one buffer, before a run.

        Args:
            sequences: batch indices, at least one.
            lengths: tokens of each of them.

        Returns:
            The front, 0 or 1: the run reads this buffer and writes the other one.
        """
        first, length = sequences[0], lengths[0]
        front = 1 if self._lengths[1][first] == length else 0
        for sequence, length in zip(sequences, lengths, strict=True):
            self.rewind(sequence, length)
            if self._lengths[front][sequence] != length:
                self._fetch(sequence, length, front)
        self._back = 1 - front
        for sequence in sequences:
            self._lengths[self._back][sequence] = _NONE
        return front

    def end_run(self, sequence: int, length: int) -> None:
        """Record that the last run wrote the states of the first `length` tokens of a sequence."""
        self._lengths[self._back][sequence] = length

    def rewind(self, sequence: int, length: int) -> None:
        """Forget the states of more than `length` tokens."""
        self.snapshots[sequence].drop_after(length)
        for buffer in self._lengths:
            if buffer[sequence] > length:
                buffer[sequence] = _NONE

    def snapshot(self, sequence: int, length: int) -> None:
        """Make sure that there is a snapshot of a sequence, which has `length` tokens now."""
        snapshots = self.snapshots[sequence]
        if length and snapshots.at(length) is None:
            snapshots.add(length, self._save(sequence, self._buffer_of(sequence, length)))

    def set_aside(self, sequence: int, length: int) -> None:
        """Let runs overwrite both buffers of a sequence, which has `length` tokens now."""
        self.snapshot(sequence, length)
        for buffer in self._lengths:
            buffer[sequence] = _NONE

    def swap(self, first: int, second: int) -> None:
        """Exchange the states and snapshots of two sequences."""
        for buffer, lengths in enumerate(self._lengths):
            kept = [self._save(each, buffer) if lengths[each] > 0 else None for each in (first, second)]
            lengths[first], lengths[second] = lengths[second], lengths[first]
            for sequence, states in zip((second, first), kept, strict=True):
                if states is not None:
                    self._load(sequence, buffer, states)
                elif lengths[sequence] == 0:
                    self._clear(sequence, buffer)
        self.snapshots[first], self.snapshots[second] = self.snapshots[second], self.snapshots[first]

    def save(self, sequence: int, length: int) -> list[NDArray]:
        """Copies of the states of a sequence, which has `length` tokens."""
        self.snapshot(sequence, length)
        snapshot = self.snapshots[sequence].at(length)
        assert snapshot is not None
        return snapshot.states

    def load(self, sequence: int, length: int, states: list[NDArray]) -> None:
        """Give a sequence states that were saved, as its only snapshot."""
        self.snapshots[sequence].drop_after(0)
        self.snapshots[sequence].add(length, [state.copy() for state in states])
        for buffer in self._lengths:
            buffer[sequence] = _NONE

    def copy(self, source: int, target: int, length: int) -> None:
        """Give a sequence the states and snapshots of another one, which has `length` tokens."""
        self.snapshot(source, length)
        self.snapshots[target] = self.snapshots[source].copy()
        for buffer in self._lengths:
            buffer[target] = _NONE

    def _begin_zeroed(self) -> None:
        """Record that both buffers are zeros, the states of an empty sequence: memory that nothing needs to clear."""
        self._lengths = [[0] * len(self.snapshots) for _ in range(2)]

    def _buffer_of(self, sequence: int, length: int) -> int:
        return 0 if self._lengths[0][sequence] == length else 1

    def _fetch(self, sequence: int, length: int, front: int) -> None:
        """Bring the states of the first `length` tokens of a sequence into a buffer."""
        self._lengths[front][sequence] = _NONE
        if not length:
            self._clear(sequence, front)
        elif self._lengths[1 - front][sequence] == length:
            self._copy(sequence, 1 - front, front)
        else:
            snapshot = self.snapshots[sequence].at(length)
            assert snapshot is not None, f"no states of {length} tokens"
            self._load(sequence, front, snapshot.states)
        self._lengths[front][sequence] = length

    @abstractmethod
    def allocate(self) -> None:
        """Allocate both buffers, if they are not there."""

    @abstractmethod
    def _save(self, sequence: int, buffer: int) -> list[NDArray]:
        """A copy, in host memory, of the states of a sequence in a buffer, 0 or 1."""

    @abstractmethod
    def _load(self, sequence: int, buffer: int, states: list[NDArray]) -> None:
        """Write what `_save` returned into a buffer."""

    @abstractmethod
    def _clear(self, sequence: int, buffer: int) -> None:
        """Write zeros into a buffer."""

    @abstractmethod
    def _copy(self, sequence: int, source: int, target: int) -> None:
        """Copy the states of a sequence from one buffer to the other."""
