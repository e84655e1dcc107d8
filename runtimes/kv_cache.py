"""The part of a KV cache that all runtimes share: token ids and lengths on the host, and when the storage grows."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.runtimes.base import Ids, Logits, too_long
from edgekiln.runtimes.properties import Properties
from edgekiln.runtimes.saved_sequence import SavedSequence
from edgekiln.runtimes.states import States

MIN_CAPACITY = 256
CAPACITY_STEP = 64


class CacheBinding(Protocol):
    """A graph's inputs and outputs, bound to a contiguous range of sequences of a KV cache.

    Attributes:
        input_ids: int64[B, S] on the host, token ids of the next run.
        position_ids: int64[B, S] on the host, positions of these tokens.
        logits: float32[B, L, V] on the host, written by each run.
    """

    input_ids: Ids
    position_ids: Ids
    logits: Logits

    def bind(self, input_ids: Ids, position_ids: Ids, logits: Logits) -> None:
        """Bind host arrays, which the binding keeps and reads or writes at every run.

        Args:
            input_ids: int64[B, S].
            position_ids: int64[B, S].
            logits: float32[B, L, V], for the last L positions; L is 1 or S.
        """

    def run(self) -> None:
        """Run the graph on the current contents of the bound arrays."""


@dataclass(frozen=True)
class VerifyBinding:
    """A binding of one sequence for verify runs of up to N = `max_verify_tokens` tokens.

    Attributes:
        binding: of the sequence.
        input_ids: int64[1, N]; a run of S tokens binds the first S.
        position_ids: int64[1, N], likewise.
        logits: float32[1, N, V], likewise.
    """

    binding: CacheBinding
    input_ids: Ids
    position_ids: Ids
    logits: Logits

    def bind(self, count: int) -> CacheBinding:
        """The binding, for a run of `count` tokens."""
        if self.binding.input_ids.shape[1] != count:
            self.binding.bind(self.input_ids[:, :count], self.position_ids[:, :count], self.logits[:, :count])
        return self.binding


class RaggedKVCache(ABC):
    """Base of KV caches whose sequences have different lengths; see `edgekiln.runtimes.base.KVCache`.

    Subclasses own the storage of keys, values and states. The C++ counterpart, KVCache of runtime/kv_cache.h, holds a
    single sequence.

    Attributes:
        sequence_lengths: int64[B], the length of each sequence with all tokens of its last prompt or step; a graph
            input of engines with `recompute_beyond`.
        states: states of the sequences; None if the engine has none.
        paused: sequences that decode steps leave as they are.
        sparse: huge pages would waste memory.
        keep_snapshots: take snapshots, so that sequences with states can be rewound.
        can_save: subclasses with `_save` and `_load` override this.
        is_paged: subclasses whose storage takes memory as tokens are written override this.
        decode_bindings: bindings for decode steps, by the number of sequences; dropped when the storage moves.
        verify_bindings: bindings for verify runs by batch index; dropped when the storage moves.
    """

    can_save = False
    is_paged = False

    def __init__(self, properties: Properties, batch_size: int, states: States | None = None) -> None:
        if batch_size < 1:
            raise RequestError(f"batch size must be at least 1, got {batch_size}")
        self.batch_size = batch_size
        self.lengths: Ids = np.zeros(batch_size, dtype=np.int64)
        self.sequence_lengths: Ids = np.zeros(batch_size, dtype=np.int64)
        self.capacity = 0
        self.states = states
        self.paused: set[int] = set()
        self.keep_snapshots = True
        self.sparse = False
        self.decode_bindings: dict[int, CacheBinding] = {}
        self.verify_bindings: dict[int, VerifyBinding] = {}
        self._properties = properties
        self._tokens: Ids = np.zeros((batch_size, 0), dtype=np.int64)

    def tokens(self, sequence: int) -> Ids:
        """int64[lengths[sequence]], the token ids of one sequence, as a view."""
        return self._tokens[sequence, : self.lengths[sequence]]

    def rewind(self, sequence: int, length: int) -> int:
        """Drop tokens from the end of one sequence; see `edgekiln.runtimes.base.KVCache`."""
        current = int(self.lengths[sequence])
        if not 0 <= length <= current:
            raise RequestError(f"cannot rewind sequence {sequence} to {length} tokens: it holds {current}")
        left = self.states.snapshots[sequence].latest(length) if self.states and length != current else length
        left = left if self._holds(sequence, left) else 0
        self.lengths[sequence] = left
        self.paused.discard(sequence)
        if self.states:
            self.states.rewind(sequence, left)
        return left

    def pause(self, sequence: int) -> None:
        """Let decode steps leave a sequence as it is; see `edgekiln.runtimes.base.KVCache`."""
        self.paused.add(sequence)

    def swap(self, first: int, second: int) -> None:
        """Exchange two sequences; see `edgekiln.runtimes.base.KVCache`."""
        if first == second:
            return
        self._swap(first, second)
        if self.states:
            self.states.swap(first, second)
        pair = [first, second]
        for array in (self.lengths, self.sequence_lengths, self._tokens):
            array[pair] = array[pair[::-1]]
        self.paused = {dict(zip(pair, pair[::-1], strict=True)).get(each, each) for each in self.paused}

    def copy(self, source: int, target: int, length: int) -> int:
        """Replace a sequence by the first tokens of another one; see `edgekiln.runtimes.base.KVCache`."""
        if not 0 <= length <= self.lengths[source]:
            raise RequestError(f"cannot copy {length} tokens of sequence {source}: it holds {self.lengths[source]}")
        self.rewind(target, 0)
        self._copy(source, target, length)
        if self.states:
            self.states.copy(source, target, int(self.lengths[source]))
        for array in (self.lengths, self.sequence_lengths, self._tokens):
            array[target] = array[source]
        return self.rewind(target, length)

    def save(self, sequence: int) -> SavedSequence:
        """A copy of a sequence in host memory; see `edgekiln.runtimes.base.KVCache`."""
        length = int(self.lengths[sequence])
        arrays = self._save(sequence) if length else []
        if self.states and length:
            arrays += self.states.save(sequence, length)
        return SavedSequence(self.tokens(sequence).copy(), int(self.sequence_lengths[sequence]), arrays)

    def load(self, sequence: int, saved: SavedSequence) -> None:
        """Replace a sequence by a saved one; see `edgekiln.runtimes.base.KVCache`."""
        length = saved.tokens.size
        self.rewind(sequence, 0)
        if not length:
            return
        self.reserve(length)
        count = len(self._properties.states)
        arrays = saved.arrays[: len(saved.arrays) - count]
        try:
            self._load(sequence, length, arrays)
        except ValueError as error:
            self.rewind(sequence, 0)
            raise RequestError("the saved sequence has keys or values of other sizes than the engine") from error
        if self.states:
            self.states.load(sequence, length, saved.arrays[len(arrays) :])
        self._tokens[sequence, :length] = saved.tokens
        self.sequence_lengths[sequence] = saved.length
        self.lengths[sequence] = length

    def release(self, sequence: int) -> None:
        """Drop all tokens of a sequence, and its memory; see `edgekiln.runtimes.base.KVCache`."""
        self.rewind(sequence, 0)

    @abstractmethod
    def _swap(self, first: int, second: int) -> None:
        """Exchange keys and values of two sequences."""

    @abstractmethod
    def _copy(self, source: int, target: int, length: int) -> None:
        """Copy keys and values of at least the first `length` tokens, and all that a shorter sequence may need."""

    def _save(self, sequence: int) -> list[NDArray[Any]]:
        """Copies of keys and values of a sequence with tokens."""
        raise EdgekilnError("this runtime cannot save sequences of its KV cache")

    def _load(self, sequence: int, length: int, arrays: list[NDArray[Any]]) -> None:
        """Write what `_save` returned; raises ValueError if it does not fit."""
        raise EdgekilnError("this runtime cannot load sequences into its KV cache")

    def _holds(self, sequence: int, length: int) -> bool:
        """Whether the storage has all keys that the token after the first `length` of a sequence sees."""
        return True

    def is_stale(self, sequence: int, length: int) -> bool:
        """Whether a sequence that is to have `length` tokens has other keys and values than those that are held."""
        limit = self._properties.recompute_beyond
        if limit is None or not self.lengths[sequence]:
            return False
        return bool((self.sequence_lengths[sequence] > limit) != (length > limit))

    def begin_prompt(self, sequence: int) -> None:
        """Take a snapshot of a sequence, before several tokens are appended: they may be replaced by others."""
        if self.states and self.keep_snapshots:
            self.states.snapshot(sequence, int(self.lengths[sequence]))

    def end_prompt(self, sequence: int) -> None:
        """Take a snapshot of a sequence after several tokens were appended: the answer may be replaced by another."""
        if self.states and self.keep_snapshots:
            length = int(self.lengths[sequence])
            self.states.snapshot(sequence, length)
            self.states.snapshots[sequence].end_prompt(length)

    def append(self, sequence: int, tokens: Ids) -> None:
        """Record int64[S] `tokens` of one sequence, after the graph has written their keys, values and states."""
        length = int(self.lengths[sequence])
        self._tokens[sequence, length : length + tokens.size] = tokens
        self._extend(sequence, length + tokens.size)

    def append_step(self, tokens: Ids) -> None:
        """Record int64[N] `tokens` of the first N sequences, but for those that are paused, after a decode step."""
        # A Python loop on purpose: between steps numpy's code has left the CPU caches, and a vectorized operation then
        # takes as long as one layer of a small model.
        for sequence, length in enumerate(self.lengths[: len(tokens)].tolist()):
            if sequence not in self.paused:
                self._tokens[sequence, length] = tokens[sequence]
                self._extend(sequence, length + 1)

    def _extend(self, sequence: int, length: int) -> None:
        if self.states:
            self.states.end_run(sequence, length)
        self.lengths[sequence] = length
        if self.states and self.keep_snapshots and self.states.snapshots[sequence].due(length):
            self.states.snapshot(sequence, length)

    def begin_run(self, sequences: range) -> int:
        """Prepare the states of a range of sequences for a run.

        Returns:
            Which of their two buffers the run reads, 0 or 1; it writes the other one.
        """
        if not self.states:
            return 0
        for sequence in self.paused.intersection(sequences):
            self.states.set_aside(sequence, int(self.lengths[sequence]))
        active = [sequence for sequence in sequences if sequence not in self.paused]
        return self.states.begin_run(active, self.lengths[active].tolist()) if active else 0

    def reserve(self, length: int, sparse: bool = False) -> None:
        """Grow the storage, if necessary, to hold `length` tokens per sequence; see `edgekiln.runtimes.base.KVCache`.

        The new capacity leaves room for a short answer and is at least 5/4 of the old one, so that the total cost of
        copying stays linear in the length; it never exceeds the engine's max_length.

        Raises:
            RequestError: `length` is more than the engine's max_length.
        """
        if length <= self.capacity:
            return
        limit = self._properties.max_length
        if length > limit:
            raise RequestError(too_long(length, self._properties))
        capacity = self._next_capacity(length, limit)
        used = int(self.lengths.max())
        self.sparse = self.sparse or sparse
        if self.states:
            self.states.allocate()
        self._grow(capacity, used)
        self.decode_bindings.clear()
        self.verify_bindings.clear()
        tokens: Ids = np.zeros((self.batch_size, capacity), dtype=np.int64)
        tokens[:, :used] = self._tokens[:, :used]
        self._tokens, self.capacity = tokens, capacity

    def _next_capacity(self, length: int, limit: int) -> int:
        """Capacity to allocate for `length` tokens per sequence, at most `limit`."""
        wanted = max(length + MIN_CAPACITY // 2, self.capacity * 5 // 4)
        return min(max(MIN_CAPACITY, -(-wanted // CAPACITY_STEP) * CAPACITY_STEP), limit)

    @abstractmethod
    def _grow(self, capacity: int, used: int) -> None:
        """Reallocate keys and values for `capacity` tokens per sequence and keep the first `used` of each."""


def batch_slice(address: int, shape: tuple[int, ...], sequences: slice, itemsize: int) -> tuple[int, list[int]]:
    """Address and shape of the part of a contiguous buffer that holds a range of sequences.

    Args:
        address: of the buffer.
        shape: of the buffer, batch first.
        sequences: range of batch indices.
        itemsize: bytes of an element.
    """
    start, stop, _ = sequences.indices(shape[0])
    sequence_bytes = math.prod(shape[1:]) * itemsize
    return address + start * sequence_bytes, [stop - start, *shape[1:]]
