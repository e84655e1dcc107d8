"""The sequences of a scheduler's KV cache. Those of running requests come first: decode steps compute no others.

Behind them are finished sequences, whose tokens later prompts may take over. The one that was used least recently makes
room for a prompt that needs a slot.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgekiln.runtimes.base import Ids, KVCache
from edgekiln.runtimes.scheduler.prefix import Classes, PrefixRules, common_prefix
from edgekiln.runtimes.scheduler.prefix_store import LEAST, PrefixStore
from edgekiln.runtimes.scheduler.request import Request


@dataclass
class Slot:
    """One sequence of the cache.

    Attributes:
        request: what it runs; None if it is free.
        prompt: class of the run that computed each token of its prompt; tokens behind it were decoded one by one.
        last_used: number of the last prompt that ran here, for eviction.
    """

    request: Request | None = None
    prompt: Classes = field(default_factory=lambda: np.zeros(0, np.int8))
    last_used: int = 0


class Slots:
    """Which request each sequence of a KV cache belongs to."""

    def __init__(
        self,
        cache: KVCache,
        rules: PrefixRules,
        sequence_bytes: Callable[[int], int],
        store: PrefixStore | None = None,
    ) -> None:
        """Over all sequences of a cache.

        Args:
            cache: the cache.
            rules: how prompts are cut into runs.
            sequence_bytes: bytes of a sequence by its number of tokens.
            store: prefixes on disk.
        """
        self._store = store
        self.slots = [Slot() for _ in range(cache.batch_size)]
        self._cache = cache
        self._rules = rules
        self._bytes = sequence_bytes
        self._clock = 0

    @property
    def span(self) -> int:
        """The number of first sequences that a decode step computes: up to the last one with a request."""
        return max((index + 1 for index, slot in enumerate(self.slots) if slot.request), default=0)

    def requests(self) -> dict[int, Request]:
        """The requests by sequence."""
        return {index: slot.request for index, slot in enumerate(self.slots) if slot.request}

    def free(self) -> int | None:
        """The first sequence without a request."""
        return next((index for index, slot in enumerate(self.slots) if slot.request is None), None)

    def held_bytes(self) -> int:
        """Bytes of all sequences: of the tokens that a request may come to, or that a finished sequence has.

        0 where every sequence takes as much as the longest one: to release some would free nothing.
        """
        if not self._cache.is_paged:
            return 0
        held = (
            slot.request.tokens if slot.request else int(self._cache.lengths[index])
            for index, slot in enumerate(self.slots)
        )
        return sum(self._bytes(tokens) for tokens in held if tokens)

    def make_room(self, size: int, limit: int | None) -> bool:
        """Release finished sequences, least recently used first, until `size` more bytes fit."""
        while limit is not None and self.held_bytes() + size > limit:
            finished = [i for i, slot in enumerate(self.slots) if not slot.request and self._cache.lengths[i]]
            if not finished:
                return False
            self._release(min(finished, key=lambda index: self.slots[index].last_used))
        return True

    def place(self, request: Request, index: int) -> int:
        """Give a free sequence to a request, with the tokens of an earlier sequence that its prompt begins with.

        Returns:
            The number of tokens that the sequence now has.
        """
        source, reused, continues = self._best(request.prompt)
        oldest = min(
            (each for each, slot in enumerate(self.slots) if not slot.request), key=lambda i: self.slots[i].last_used
        )
        if (loaded := self._load(request.prompt, reused, index, oldest)) is not None:
            source = None
            reused, classes = loaded
        elif source is not None and self._may_go(source, reused, oldest):
            self.swap(index, source)
            source, classes = index, self.slots[index].prompt
            reused = self._cache.rewind(index, reused)
        else:
            self.swap(index, oldest)
            if source == index:
                source = oldest
            classes = self.slots[source].prompt if source is not None else np.zeros(0, np.int8)
            reused = self._cache.copy(source, index, reused) if source is not None else self._cache.rewind(index, 0)
        if source is not None and not continues:
            self._save(index, self._padded(classes, reused))
        self._clock += 1
        if source is not None:
            self.slots[source].last_used = self._clock
        self.slots[index] = Slot(request, self._padded(classes, reused), self._clock)
        request.runs = self._rules.runs(reused, request.prompt.size)[::-1]
        return reused

    def extend(self, index: int, size: int) -> None:
        """Record a run of `size` tokens of a prompt."""
        slot = self.slots[index]
        slot.prompt = np.append(slot.prompt, np.full(size, self._rules.run_class(size), np.int8))

    def finish(self, index: int, keep: bool = True) -> None:
        """Take the request of a sequence away, whose tokens stay unless they are of no use."""
        self.slots[index].request = None
        if not keep:
            self._release(index)

    def _may_go(self, source: int, reused: int, oldest: int) -> bool:
        """Whether a prompt may take a sequence over instead of a copy of the tokens that it needs of it."""
        if self.slots[source].request:
            return False
        return source == oldest or 2 * reused >= int(self._cache.lengths[source])

    def _best(self, prompt: Ids) -> tuple[int | None, int, bool]:
        """Where most tokens can be taken over.

        Returns:
            The sequence, None if there is none; the number of tokens; and whether the prompt continues its answer.
        """
        best: tuple[int | None, int, bool] = (None, 0, False)
        for index, slot in enumerate(self.slots):
            common = common_prefix(self._cache.tokens(index), prompt)
            if common <= best[1]:
                continue
            # Tokens of an answer that the prompt continues keep the bits with which they were generated.
            continues = common > slot.prompt.size
            if continues:
                count = min(common, prompt.size - 1)
            else:
                count = self._rules.reusable(common, self._padded(slot.prompt, common), prompt.size)
            if count > best[1]:
                best = (index, count, continues)
        return best

    def _load(self, prompt: Ids, reused: int, index: int, oldest: int) -> tuple[int, Classes] | None:
        """Load a prefix from disk if it has more than the `reused` tokens that are in memory.

        Returns:
            The number of tokens that the sequence now has, and their classes.
        """
        if self._store is None:
            return None
        best, count = self._store.best(prompt, self._rules)
        if count < reused + LEAST or (loaded := self._store.load(best)) is None:
            return None
        self.swap(index, oldest)
        saved, classes = loaded
        self._cache.load(index, saved)
        return self._cache.rewind(index, count), classes

    def _save(self, index: int, classes: Classes) -> None:
        """Keep the tokens of a sequence, which several prompts begin with, on disk."""
        count = int(self._cache.lengths[index])
        if self._store is None or count < LEAST:
            return
        # One more token, as the last token of a prompt always runs.
        longer = np.append(self._cache.tokens(index), 0)
        if self._store.best(longer, PrefixRules(self._rules.chunk, ()))[1] < count - LEAST // 2:
            self._store.add(self._cache.save(index), classes)

    def _padded(self, classes: Classes, length: int) -> Classes:
        """The first `length` of `classes`, with those of decoded tokens behind them."""
        decoded = np.full(max(0, length - classes.size), self._rules.run_class(1), np.int8)
        return np.concatenate([classes[:length], decoded])

    def swap(self, first: int, second: int) -> None:
        """Exchange two sequences."""
        if first != second:
            self._cache.swap(first, second)
            self.slots[first], self.slots[second] = self.slots[second], self.slots[first]

    def _release(self, index: int) -> None:
        self._cache.release(index)
        self.slots[index].prompt = np.zeros(0, np.int8)
