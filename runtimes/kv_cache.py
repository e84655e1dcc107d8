"""What every cache of ragged rows keeps on the host: the ids that each row holds, and how many."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Ids, Logits, Properties, too_long

SMALLEST_CAPACITY = 256
CAPACITY_STEP = 64


class CacheBinding(Protocol):
    """A graph's inputs and outputs bound to rows of a cache; the arrays are on the host."""

    input_ids: Ids
    position_ids: Ids
    logits: Logits

    def bind(self, input_ids: Ids, position_ids: Ids, logits: Logits) -> None:
        """Read from int64[B, S] `input_ids` and `position_ids`, write to float32[B, 1 or S, V] `logits`."""

    def run(self) -> None:
        """Run the graph on what the bound arrays hold now."""


@dataclass(frozen=True)
class Verification:
    """What max_verify_tokens tokens of one row: a binding, and arrays as for the most tokens, of which it takes the first."""

    binding: CacheBinding
    input_ids: Ids
    position_ids: Ids
    logits: Logits

    def bind(self, count: int) -> CacheBinding:
        """The binding, of `count` tokens."""
        if self.binding.input_ids.shape[1] != count:
            self.binding.bind(self.input_ids[:, :count], self.position_ids[:, :count], self.logits[:, :count])
        return self.binding


class RaggedKVCache(ABC):
    """Bookkeeping of `batch_size` rows over storage that grows; see `edgekiln.runtimes.base.KVCache`.

    Attributes:
        decode: what steps all rows, until the storage moves.
        verify: what max_verify_tokens tokens of a row, by row, until then.
    """

    def __init__(self, properties: Properties, batch_size: int) -> None:
        if batch_size < 1:
            raise RequestError(f"batch size must be at least 1, got {batch_size}")
        self.batch_size = batch_size
        self.lengths: Ids = np.zeros(batch_size, dtype=np.int64)
        self.capacity = 0
        self.decode: CacheBinding | None = None
        self.verify: dict[int, Verification] = {}
        self._properties = properties
        self._tokens: Ids = np.zeros((batch_size, 0), dtype=np.int64)

    def tokens(self, row: int) -> Ids:
        """int64[lengths[row]], the ids the row holds, as a view."""
        return self._tokens[row, : self.lengths[row]]

    def rewind(self, row: int, length: int) -> None:
        """Forget the row's tokens after the first `length`."""
        held = int(self.lengths[row])
        if not 0 <= length <= held:
            raise RequestError(f"cannot rewind row {row} to {length} tokens: it holds {held}")
        self.lengths[row] = length

    def append(self, row: int, tokens: Ids) -> None:
        """Count `tokens`, int64[S], whose keys and values the graph has just written, as held by the row."""
        held = int(self.lengths[row])
        self._tokens[row, held : held + tokens.size] = tokens
        self.lengths[row] = held + tokens.size

    def append_each(self, tokens: Ids) -> None:
        """As `append`, one token of int64[B] for each row."""
        # Number by number: between two steps, which leave nothing of numpy in the processor's caches, an operation on
        # arrays takes as long as a small model's layer.
        for row, length in enumerate(self.lengths.tolist()):
            self._tokens[row, length] = tokens[row]
            self.lengths[row] = length + 1

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in every row and a short answer, up to the engine's max_length. It grows by a
        quarter at least: what a growing cache is copied stays a few times its length.

        Raises:
            RequestError: the engine holds fewer than `length`.
        """
        if length <= self.capacity:
            return
        limit = self._properties.max_length
        if length > limit:
            raise RequestError(too_long(length, limit))
        capacity = self._larger(length, limit)
        held = int(self.lengths.max())
        self._grow(capacity, held)
        self.decode = None
        self.verify.clear()
        tokens: Ids = np.zeros((self.batch_size, capacity), dtype=np.int64)
        tokens[:, :held] = self._tokens[:, :held]
        self._tokens, self.capacity = tokens, capacity

    def _larger(self, length: int, limit: int) -> int:
        """The capacity to take for `length` tokens, at most `limit`."""
        larger = max(length + SMALLEST_CAPACITY // 2, self.capacity * 5 // 4)
        return min(max(SMALLEST_CAPACITY, -(-larger // CAPACITY_STEP) * CAPACITY_STEP), limit)

    @abstractmethod
    def _grow(self, capacity: int, held: int) -> None:
        """Give every row storage for `capacity` tokens and keep its first `held`."""


def slice_of(address: int, shape: tuple[int, ...], rows: slice, itemsize: int) -> tuple[int, list[int]]:
    """Where the `rows` of a contiguous buffer begin, and their shape; elements have `itemsize` bytes."""
    start, stop, _ = rows.indices(shape[0])
    row_bytes = math.prod(shape[1:]) * itemsize
    return address + start * row_bytes, [stop - start, *shape[1:]]
