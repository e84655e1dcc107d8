"""The loop that adapters share: rows are prefilled alone in chunks and stepped together.

What a graph reads and writes is bound once and run many times. Rows of different lengths are stepped together without
padding, or the binding sees to it.
"""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EdgekilnError, RequestError, first_line
from edgekiln.runtimes.base import Ids, KVCache, Logits, Properties, checked_ids
from edgekiln.runtimes.kv_cache import CacheBinding, RaggedKVCache, Verification

C = TypeVar("C", bound=RaggedKVCache)
S = TypeVar("S")


class ChunkedRuntime(ABC, Generic[C, S]):
    """Chunks and steps over a session `S`, what the library calls a loaded graph; see `edgekiln.runtimes.base.Runtime`.

    Attributes:
        library: that runs the graph, as messages name it.
        max_verify_tokens: see `edgekiln.runtimes.base.Runtime`; more than 1 where logits of several positions may be bound.
    """

    library: str
    max_verify_tokens: int = 1
    _generate: S

    def __init__(self, manifest: EngineManifest, chunk: int, cache_type: type[C]) -> None:
        self.properties = Properties.from_manifest(manifest)
        self._manifest = manifest
        self._chunk = chunk
        self._cache_type = cache_type

    @abstractmethod
    def new_cache(self, batch_size: int = 1) -> C:
        """An empty cache of `batch_size` rows; memory is taken as tokens come."""

    @abstractmethod
    def _bind(self, session: S, cache: C, rows: slice) -> CacheBinding:
        """A binding of `rows` of the cache to a session."""

    def prefill(self, cache: KVCache, row: int, tokens: Ids) -> Logits:
        """Append int64[S] `tokens` to one row, in chunks; float32[V], logits of the last position."""
        own, ids = self._checked(cache, row, tokens)
        logits: Logits = np.empty((1, 1, self.properties.vocab_size), dtype=np.float32)
        self._append(self._generate, own, row, ids, logits)
        return logits[0, 0]

    def step(self, cache: KVCache, tokens: Ids) -> Logits:
        """Append one token, of int64[B], to each row; float32[B, V], logits of each row."""
        own = self._own(cache)
        own.reserve(max(own.lengths.tolist()) + 1)
        binding = own.decode
        if binding is None:
            binding = own.decode = self._bind(self._generate, own, slice(None))
            batch = own.batch_size
            binding.bind(
                np.zeros((batch, 1), dtype=np.int64),
                np.zeros((batch, 1), dtype=np.int64),
                np.empty((batch, 1, self.properties.vocab_size), dtype=np.float32),
            )
        binding.input_ids[:, 0] = tokens
        binding.position_ids[:, 0] = own.lengths
        self._run(binding)
        own.append_each(tokens)
        return binding.logits[:, 0]

    def verify(self, cache: KVCache, row: int, tokens: Ids) -> Logits:
        """Append int64[S] `tokens` to one row in a single run; float32[S, V], logits of every position."""
        own, ids = self._checked(cache, row, tokens)
        if ids.size > self.max_verify_tokens:
            raise RequestError(
                f"cannot verify {ids.size} tokens together: this engine and its kernels verify {self.max_verify_tokens}"
            )
        held = int(own.lengths[row])
        own.reserve(held + ids.size)
        if row not in own.verify:
            own.verify[row] = Verification(
                self._bind(self._generate, own, slice(row, row + 1)),
                np.empty((1, self.max_verify_tokens), dtype=np.int64),
                np.empty((1, self.max_verify_tokens), dtype=np.int64),
                np.empty((1, self.max_verify_tokens, self.properties.vocab_size), dtype=np.float32),
            )
        binding = own.verify[row].bind(ids.size)
        binding.input_ids[0] = ids
        binding.position_ids[0] = np.arange(held, held + ids.size)
        self._run(binding)
        own.append(row, ids)
        return binding.logits[0]

    def _checked(self, cache: KVCache, row: int, tokens: Ids) -> tuple[C, Ids]:
        own = self._own(cache)
        if not 0 <= row < own.batch_size:
            raise RequestError(f"row {row} is outside the cache of {own.batch_size} rows")
        return own, checked_ids(tokens, self.properties, held=int(own.lengths[row]))

    def _append(self, session: S, cache: C, row: int, ids: Ids, logits: Logits) -> None:
        """Run `ids` through one row; `logits` is [1, 1, V] for the last position or [1, S, V] for each."""
        held = int(cache.lengths[row])
        cache.reserve(held + ids.size)
        binding = self._bind(session, cache, slice(row, row + 1))
        for start in range(0, ids.size, self._chunk):
            chunk = ids[start : start + self._chunk]
            stop = start + chunk.size
            positions: Ids = np.arange(held + start, held + stop, dtype=np.int64)
            binding.bind(chunk[None], positions[None], logits if logits.shape[1] == 1 else logits[:, start:stop])
            self._run(binding)
            cache.append(row, chunk)

    def _run(self, binding: CacheBinding) -> None:
        try:
            binding.run()
        except EdgekilnError:
            raise
        except Exception as error:
            raise EdgekilnError(f"{self.library} failed while running the engine: {first_line(error)}") from error

    def _own(self, cache: KVCache) -> C:
        if not isinstance(cache, self._cache_type):
            raise RequestError(f"the cache is a {type(cache).__name__}, take one from this runtime's new_cache()")
        return cache
