"""What the adapters of ONNX Runtime share: graphs are sessions, bound by IO binding.

The graph's attention is GroupQueryAttention over a shared buffer. It takes every row's past length from
`position_ids[b, 0]`, so rows of different lengths are stepped together without padding.
"""

from abc import abstractmethod
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EngineError
from edgekiln.runtimes.base import Ids, Logits, checked_ids
from edgekiln.runtimes.chunked import C, ChunkedRuntime


class OrtRuntime(ChunkedRuntime[C, ort.InferenceSession]):
    """Graphs of an engine directory as sessions; see `edgekiln.runtimes.base.Runtime`."""

    library = "ONNX Runtime"

    def __init__(self, directory: Path, manifest: EngineManifest, chunk: int, cache_type: type[C]) -> None:
        super().__init__(manifest, chunk, cache_type)
        self._directory = directory

    @abstractmethod
    def _open(self, path: Path) -> ort.InferenceSession:
        """A session of the graph at `path`, or EngineError."""

    def score(self, tokens: Ids) -> Logits:
        """Logits float32[S, V] of every position of a fresh sequence, int64[S]."""
        ids = checked_ids(tokens, self.properties)
        logits: Logits = np.empty((1, ids.size, self.properties.vocab_size), dtype=np.float32)
        self._append(self._score, self.new_cache(), 0, ids, logits)
        return logits[0]

    @cached_property
    def _score(self) -> ort.InferenceSession:
        return self._load("score")

    def _load(self, role: str) -> ort.InferenceSession:
        if role not in self._manifest.graphs:
            raise EngineError(f"{self._directory} has no {role} graph: build the engine again")
        return self._open(self._directory / self._manifest.graphs[role])
