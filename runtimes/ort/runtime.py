"""Base of the ONNX Runtime adapters: engine graphs as sessions, run with IO binding.

Attention is com.microsoft::GroupQueryAttention with past and present in one shared buffer. It takes the past length of
each sequence from `position_ids[b, 0]`, so sequences of different lengths decode together without padding.
"""

import re
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgekiln.engine.manifest import EngineManifest, check_unchanged
from edgekiln.engine.utf8_path import utf8_path
from edgekiln.errors import EngineError, first_line
from edgekiln.runtimes.base import Ids, Logits, checked_ids
from edgekiln.runtimes.chunked import C, ChunkedRuntime
from edgekiln.runtimes.ort.graph_io import check_graph
from edgekiln.runtimes.ort.library import onnxruntime as ort

_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


class OrtRuntime(ChunkedRuntime[C, ort.InferenceSession]):
    """Runs the graphs of an engine directory in ONNX Runtime; see `edgekiln.runtimes.base.Runtime`."""

    library = "ONNX Runtime"

    def __init__(self, directory: Path, manifest: EngineManifest, chunk: int, cache_type: type[C]) -> None:
        super().__init__(manifest, chunk, cache_type)
        self._directory = directory

    @abstractmethod
    def _open(self, path: Path) -> ort.InferenceSession:
        """Load a graph; raises EngineError if ONNX Runtime refuses it."""

    def score(self, tokens: Ids) -> Logits:
        """Logits of every position of a new sequence int64[S], as float32[S, V]."""
        ids = checked_ids(tokens, self.properties)
        logits: Logits = np.empty((1, ids.size, self.properties.vocab_size), dtype=np.float32)
        cache = self.new_cache()
        cache.keep_snapshots = False
        self._append(self._score, cache, 0, ids, logits)
        return logits[0]

    @cached_property
    def _score(self) -> ort.InferenceSession:
        session = self._load("score")
        check_unchanged(self._directory, self._manifest)
        return session

    def _load(self, role: str) -> ort.InferenceSession:
        if role not in self._manifest.graphs:
            raise EngineError(f"{self._directory} has no {role} graph: build the engine again")
        path = self._directory / self._manifest.graphs[role]
        session = self._open(path)
        if role != "grow":
            check_graph(session, path, self._manifest, role)
        return session


def load_error(path: Path, error: Exception) -> EngineError:
    """The error for a graph that ONNX Runtime refuses; without its numbers, as in libedgekiln."""
    reason = _CODE.sub("", first_line(error))
    return EngineError(f"ONNX Runtime {ort.__version__} cannot load {path}: {reason}")


def open_session(path: Path, options: ort.SessionOptions, providers: list[Any]) -> ort.InferenceSession:
    """Load a graph, whose path need not be UTF-8. ONNX Runtime raises all kinds of errors."""
    with utf8_path(path) as name:
        return ort.InferenceSession(name, options, providers=providers)
