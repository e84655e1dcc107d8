"""What the adapters of ONNX Runtime share: rows are prefilled alone in chunks and stepped together, by IO binding.

The graph's attention is GroupQueryAttention over a shared buffer. It takes every row's past length from
`position_ids[b, 0]`, so rows of different lengths are stepped together without padding.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import onnxruntime as ort

from edgekiln.bundle import EngineManifest
from edgekiln.errors import BundleError, EdgekilnError, RequestError, first_line
from edgekiln.runtimes.base import Cache, Ids, Logits, Properties, checked_ids
from edgekiln.runtimes.ragged import RaggedRows, RowsBinding

C = TypeVar("C", bound=RaggedRows)


class OrtRuntime(ABC, Generic[C]):
    """The loop over chunks and steps; see `edgekiln.runtimes.base.Runtime`."""

    _generate: ort.InferenceSession

    def __init__(self, directory: Path, manifest: EngineManifest, chunk: int, cache_type: type[C]) -> None:
        self.properties = Properties.from_manifest(manifest)
        self._directory = directory
        self._manifest = manifest
        self._chunk = chunk
        self._cache_type = cache_type

    @abstractmethod
    def new_cache(self, batch_size: int = 1) -> C:
        """An empty cache of `batch_size` rows; memory is taken as tokens come."""

    @abstractmethod
    def _bind(self, session: ort.InferenceSession, cache: C, rows: slice) -> RowsBinding:
        """A binding of `rows` of the cache to a session of `_open`."""

    @abstractmethod
    def _open(self, path: Path) -> ort.InferenceSession:
        """A session of the graph at `path`, or BundleError."""

    def prefill(self, cache: Cache, row: int, tokens: Ids) -> Logits:
        """Append int64[S] `tokens` to one row, in chunks; float32[V], logits of the last position."""
        own = self._own(cache)
        if not 0 <= row < own.batch_size:
            raise RequestError(f"row {row} is outside the cache of {own.batch_size} rows")
        ids = checked_ids(tokens, self.properties, held=int(own.lengths[row]))
        logits: Logits = np.empty((1, 1, self.properties.vocab_size), dtype=np.float32)
        self._append(self._generate, own, row, ids, logits)
        return logits[0, 0]

    def step(self, cache: Cache, tokens: Ids) -> Logits:
        """Append one token, of int64[B], to each row; float32[B, V], logits of each row."""
        own = self._own(cache)
        own.reserve(int(own.lengths.max()) + 1)
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

    def score(self, tokens: Ids) -> Logits:
        """Logits float32[S, V] of every position of a fresh sequence, int64[S]."""
        ids = checked_ids(tokens, self.properties)
        logits: Logits = np.empty((1, ids.size, self.properties.vocab_size), dtype=np.float32)
        self._append(self._score, self.new_cache(), 0, ids, logits)
        return logits[0]

    def _append(self, session: ort.InferenceSession, cache: C, row: int, ids: Ids, logits: Logits) -> None:
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

    def _run(self, binding: RowsBinding) -> None:
        try:
            binding.run()
        except Exception as error:
            raise EdgekilnError(f"ONNX Runtime failed while running the engine: {first_line(error)}") from error

    def _own(self, cache: Cache) -> C:
        if not isinstance(cache, self._cache_type):
            raise RequestError(f"the cache is a {type(cache).__name__}, take one from this runtime's new_cache()")
        return cache

    @cached_property
    def _score(self) -> ort.InferenceSession:
        return self._load("score")

    def _load(self, role: str) -> ort.InferenceSession:
        if role not in self._manifest.graphs:
            raise BundleError(f"{self._directory} has no {role} graph: build the engine again")
        return self._open(self._directory / self._manifest.graphs[role])
