"""Snapshots of a sequence: copies of its states, to which it can be rewound.

A state is what a layer without attention carries from token to token, in an array of constant size, and no token can be
dropped from it. So a rewind goes back to the latest copy at or before the wanted length.

Twin of cpp/src/runtime/snapshots.h.
"""

from dataclasses import dataclass
from typing import Final

from numpy.typing import NDArray

INTERVAL: Final = 512  # most tokens between snapshots
MOST: Final = 8  # snapshots of a sequence


@dataclass(frozen=True)
class Snapshot:
    """The states of a sequence after its first `length` tokens, at least 1, as the storage saved them."""

    length: int
    states: list[NDArray]


class Snapshots:
    """The snapshots of one sequence, in the order of their lengths.

    The empty sequence needs none: its states are zeros.
    """

    def __init__(self) -> None:
        self._all: list[Snapshot] = []
        self._prompt_end = 0

    @property
    def lengths(self) -> list[int]:
        """Length of each snapshot, in increasing order."""
        return [snapshot.length for snapshot in self._all]

    def copy(self) -> "Snapshots":
        """The same snapshots, for another sequence."""
        copy = Snapshots()
        copy._all, copy._prompt_end = list(self._all), self._prompt_end
        return copy

    def at(self, length: int) -> Snapshot | None:
        """The snapshot of this length."""
        return next((snapshot for snapshot in self._all if snapshot.length == length), None)

    def latest(self, length: int) -> int:
        """Length of the latest snapshot at or before `length`, 0 if there is none."""
        return max((snapshot.length for snapshot in self._all if snapshot.length <= length), default=0)

    def due(self, length: int) -> bool:
        """Whether a sequence that has grown to `length` tokens needs another snapshot."""
        return length - (self._all[-1].length if self._all else 0) >= INTERVAL

    def add(self, length: int, states: list[NDArray]) -> None:
        """Add a snapshot that is longer than all others.

        If there are more than `MOST` then, the one goes whose loss leaves the smallest gap between its neighbours;
        never this one, nor the one at the end of the last prompt.
        """
        self._all.append(Snapshot(length, states))
        if len(self._all) > MOST:
            ends = [0, *self.lengths]  # ends[i] is the neighbour before snapshot i
            able = [i for i in range(MOST) if self._all[i].length != self._prompt_end]
            del self._all[min(able, key=lambda i: ends[i + 2] - ends[i])]

    def end_prompt(self, length: int) -> None:
        """Keep the snapshot of this length until the next prompt ends."""
        self._prompt_end = length

    def drop_after(self, length: int) -> None:
        """Drop the snapshots of more than `length` tokens."""
        while self._all and self._all[-1].length > length:
            self._all.pop()
