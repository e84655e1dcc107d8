"""The prefill, decode and verify loops that all adapters share.

An adapter provides sessions, KV caches and bindings. The inputs and outputs of decode steps are bound once and reused
until the KV cache grows.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EdgekilnError, RequestError, first_line
from edgekiln.runtimes.base import Ids, KVCache, Logits, checked_ids
from edgekiln.runtimes.kv_cache import CacheBinding, RaggedKVCache, VerifyBinding
from edgekiln.runtimes.properties import Properties

C = TypeVar("C", bound=RaggedKVCache)
S = TypeVar("S")


class ChunkedRuntime(ABC, Generic[C, S]):
    """Base of the adapters; see `edgekiln.runtimes.base.Runtime`. `S` is the library's type of a loaded graph.

    Attributes:
        library: name of the library in error messages.
        max_verify_tokens: see `edgekiln.runtimes.base.Runtime`; adapters with verification override the default of 1.
        run_sizes: likewise; adapters that know them override the default of none.
        chunk: likewise.
    """

    library: str
    kernels: str
    max_verify_tokens: int = 1
    run_sizes: tuple[int, ...] = ()
    _generate: S

    def __init__(self, manifest: EngineManifest, chunk: int, cache_type: type[C]) -> None:
        self.properties = Properties.from_manifest(manifest)
        self._manifest = manifest
        self.chunk = chunk
        self._cache_type = cache_type

    @property
    def sequence_key(self) -> str:
        """See `edgekiln.runtimes.base.Runtime`."""
        files = json.dumps([self._manifest.target, self.kernels, sorted(self._manifest.files.items())])
        return hashlib.sha256(files.encode()).hexdigest()

    def keep_packed_weights(self) -> None:
        """See `edgekiln.runtimes.base.Runtime`; adapters that pack weights override this, which does nothing."""

    @abstractmethod
    def new_cache(self, batch_size: int = 1) -> C:
        """An empty KV cache for `batch_size` sequences; see `edgekiln.runtimes.base.Runtime`."""

    @abstractmethod
    def _bind(self, session: S, cache: C, sequences: slice, decode: bool = False) -> CacheBinding:
        """Bind a range of the cache's sequences to a session, for decode steps or for runs of any length."""

    def prefill(self, cache: KVCache, sequence: int, tokens: Ids) -> Logits:
        """Append int64[S] `tokens` to one sequence, in chunks; returns float32[V], logits of the last position."""
        own, ids = self._checked(cache, sequence, tokens)
        logits: Logits = np.empty((1, 1, self.properties.vocab_size), dtype=np.float32)
        self._append(self._generate, own, sequence, ids, logits)
        return logits[0, 0]

    def step(self, cache: KVCache, tokens: Ids) -> Logits:
        """Decode step: append int64[N] `tokens` to the first N sequences; returns float32[N, V], a view of a buffer."""
        own = self._own(cache)
        count = len(tokens)
        if not 1 <= count <= own.batch_size:
            raise RequestError(
                f"a step got {count} tokens, the cache has {own.batch_size} sequences: give one for each"
            )
        own.reserve(max(own.lengths[:count].tolist()) + 1)
        if self.properties.recompute_beyond is not None:
            self._begin_step(own, count)
        binding = own.decode_bindings.get(count)
        if binding is None:
            binding = own.decode_bindings[count] = self._bind(self._generate, own, slice(0, count), decode=True)
            binding.bind(
                np.zeros((count, 1), dtype=np.int64),
                np.zeros((count, 1), dtype=np.int64),
                np.empty((count, 1, self.properties.vocab_size), dtype=np.float32),
            )
        binding.input_ids[:, 0] = tokens
        binding.position_ids[:, 0] = own.lengths[:count]
        self._run(binding)
        own.append_step(tokens)
        return binding.logits[:, 0]

    def verify(self, cache: KVCache, sequence: int, tokens: Ids) -> Logits:
        """Append int64[S] `tokens` to one sequence in a single run; returns float32[S, V], a view of a buffer."""
        own, ids = self._checked(cache, sequence, tokens)
        if ids.size > self.max_verify_tokens:
            raise RequestError(
                f"cannot verify {ids.size} tokens together: this engine and its kernels verify {self.max_verify_tokens}"
            )
        length = int(own.lengths[sequence])
        limit = self.properties.recompute_beyond
        if limit is not None and length <= limit < length + ids.size:
            raise RequestError(f"cannot verify tokens on both sides of position {limit}, where keys change")
        self._refresh(own, sequence, length + ids.size)
        own.reserve(length + ids.size)
        if sequence not in own.verify_bindings:
            own.verify_bindings[sequence] = VerifyBinding(
                self._bind(self._generate, own, slice(sequence, sequence + 1)),
                np.empty((1, self.max_verify_tokens), dtype=np.int64),
                np.empty((1, self.max_verify_tokens), dtype=np.int64),
                np.empty((1, self.max_verify_tokens, self.properties.vocab_size), dtype=np.float32),
            )
        binding = own.verify_bindings[sequence].bind(ids.size)
        binding.input_ids[0] = ids
        binding.position_ids[0] = np.arange(length, length + ids.size)
        self._run(binding)
        own.append(sequence, ids)
        return binding.logits[0]

    def _checked(self, cache: KVCache, sequence: int, tokens: Ids) -> tuple[C, Ids]:
        own = self._own(cache)
        if not 0 <= sequence < own.batch_size:
            raise RequestError(f"batch index {sequence} is outside the cache of batch size {own.batch_size}")
        ids = checked_ids(tokens, self.properties, length=int(own.lengths[sequence]))
        own.paused.discard(sequence)
        return own, ids

    def _begin_step(self, cache: C, count: int) -> None:
        """Make the cache ready for a step of the first `count` sequences, whose keys may change with it."""
        for sequence, length in enumerate(cache.lengths[:count].tolist()):
            if sequence not in cache.paused:
                self._refresh(cache, sequence, length + 1)

    def _refresh(self, cache: C, sequence: int, length: int) -> None:
        """Compute the keys of a sequence that is to have `length` tokens again if it has others then."""
        if cache.is_stale(sequence, length):
            ids = cache.tokens(sequence).copy()
            cache.rewind(sequence, 0)
            logits: Logits = np.empty((1, 1, self.properties.vocab_size), dtype=np.float32)
            self._append(self._generate, cache, sequence, ids, logits, length)
        cache.sequence_lengths[sequence] = length

    def _append(self, session: S, cache: C, sequence: int, ids: Ids, logits: Logits, total: int = 0) -> None:
        """Run int64[S] `ids` of one sequence in chunks.

        `logits` is float32[1, 1, V], which keeps those of the last position, or float32[1, S, V] for all of them.
        `total` is the length that the sequence is to have if it is more than with `ids`.
        """
        length = int(cache.lengths[sequence])
        total = total or length + ids.size
        if cache.is_stale(sequence, total):
            ids = np.concatenate([cache.tokens(sequence), ids])
            cache.rewind(sequence, 0)
            length = 0
        cache.sequence_lengths[sequence] = total
        cache.reserve(length + ids.size)
        if ids.size > 1:
            cache.begin_prompt(sequence)
        binding = self._prompt_binding(session, cache, sequence)
        for start in range(0, ids.size, self.chunk):
            chunk = ids[start : start + self.chunk]
            stop = start + chunk.size
            positions: Ids = np.arange(length + start, length + stop, dtype=np.int64)
            binding.bind(chunk[None], positions[None], logits if logits.shape[1] == 1 else logits[:, start:stop])
            self._run(binding)
            cache.append(sequence, chunk)
        if ids.size > 1:
            cache.end_prompt(sequence)

    def _prompt_binding(self, session: S, cache: C, sequence: int) -> CacheBinding:
        """The binding for runs of a prompt: a new one, so that its memory is freed after the prompt."""
        return self._bind(session, cache, slice(sequence, sequence + 1))

    def _run(self, binding: CacheBinding) -> None:
        try:
            binding.run()
        except EdgekilnError:
            raise
        except Exception as error:
            reason = first_line(error).removeprefix("Error in execution: ")  # of ONNX Runtime's Python binding only
            raise EdgekilnError(f"{self.library} failed while running the engine: {reason}") from error

    def _own(self, cache: KVCache) -> C:
        if not isinstance(cache, self._cache_type):
            raise RequestError(f"the cache is a {type(cache).__name__}, take one from this runtime's new_cache()")
        return cache
