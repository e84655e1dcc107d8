"""ONNX Runtime on the CPU: the adapter of target `ort-cpu`.

The graph's attention is GroupQueryAttention over a shared buffer. It takes every row's past length from
`position_ids[b, 0]`, so rows of different lengths are stepped together without padding.
"""

import os
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort
import psutil

from edgekiln.bundle import EngineManifest
from edgekiln.errors import BundleError, EdgekilnError, RequestError, first_line
from edgekiln.runtimes.base import Cache, Ids, Logits, Properties, checked_ids
from edgekiln.runtimes.native import STOCK, native_kernels
from edgekiln.runtimes.ort_cache import Binding, OrtCache

DEFAULT_CHUNK = 256
DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "int8": np.dtype(np.int8),
}
# Of caches that edgekiln's own kernels read.
NATIVE_DTYPES = ("float32", "int8")
LOG_ERRORS_ONLY = 3


def default_threads() -> int:
    """Physical cores this process may run on; a second thread on one core slows matrix products down."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


class OrtCpuRuntime:
    """An engine loaded in ONNX Runtime; see `edgekiln.runtimes.base.Runtime`."""

    def __init__(
        self,
        directory: Path,
        manifest: EngineManifest,
        threads: int | None = None,
        chunk: int | None = None,
        native: bool = True,
    ) -> None:
        """Load the `generate` graph of a checked engine.

        With `native`, edgekiln's own kernels are used where they are built and take the graph.

        Raises:
            BundleError: ONNX Runtime refuses the graph, or its cache layout is not for this adapter.
        """
        if manifest.kv.kind != "shared-buffer" or manifest.kv.dtype not in DTYPES:
            raise BundleError(
                f"the engine's key-value layout is {manifest.kv.kind} {manifest.kv.dtype}, "
                f"ort-cpu runs shared-buffer {' or '.join(DTYPES)}: build the engine again"
            )
        self.properties = Properties.from_manifest(manifest)
        self._directory = directory
        self._manifest = manifest
        self._threads = threads or default_threads()
        self._chunk = chunk or DEFAULT_CHUNK
        self._native = native_kernels() if native and manifest.kv.dtype in NATIVE_DTYPES else None
        self._generate = self._load("generate")

    @property
    def kernels(self) -> str:
        """`stock`, or the instruction set of edgekiln's own kernels."""
        return self._native.instruction_set if self._native else STOCK

    def new_cache(self, batch_size: int = 1) -> OrtCache:
        """An empty cache of `batch_size` rows; memory is taken as tokens come."""
        if batch_size < 1:
            raise RequestError(f"batch size must be at least 1, got {batch_size}")
        return OrtCache(self.properties, DTYPES[self._manifest.kv.dtype], batch_size)

    def prefill(self, cache: Cache, row: int, tokens: Ids) -> Logits:
        """Append int64[S] `tokens` to one row, in chunks; float32[V], logits of the last position."""
        own = _own(cache)
        if not 0 <= row < own.batch_size:
            raise RequestError(f"row {row} is outside the cache of {own.batch_size} rows")
        ids = checked_ids(tokens, self.properties, held=int(own.lengths[row]))
        logits: Logits = np.empty((1, 1, self.properties.vocab_size), dtype=np.float32)
        self._append(self._generate, own, row, ids, logits)
        return logits[0, 0]

    def step(self, cache: Cache, tokens: Ids) -> Logits:
        """Append one token, of int64[B], to each row; float32[B, V], logits of each row."""
        own = _own(cache)
        own.reserve(int(own.lengths.max()) + 1)
        binding = own.decode
        if binding is None:
            binding = own.decode = Binding(self._generate, self._manifest.io, own, slice(None))
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

    def _append(self, session: ort.InferenceSession, cache: OrtCache, row: int, ids: Ids, logits: Logits) -> None:
        """Run `ids` through one row; `logits` is [1, 1, V] for the last position or [1, S, V] for each."""
        held = int(cache.lengths[row])
        cache.reserve(held + ids.size)
        binding = Binding(session, self._manifest.io, cache, slice(row, row + 1))
        for start in range(0, ids.size, self._chunk):
            chunk = ids[start : start + self._chunk]
            stop = start + chunk.size
            positions: Ids = np.arange(held + start, held + stop, dtype=np.int64)
            binding.bind(chunk[None], positions[None], logits if logits.shape[1] == 1 else logits[:, start:stop])
            self._run(binding)
            cache.append(row, chunk)

    def _run(self, binding: Binding) -> None:
        try:
            binding.run()
        except Exception as error:
            raise EdgekilnError(f"ONNX Runtime failed while running the engine: {first_line(error)}") from error

    @cached_property
    def _score(self) -> ort.InferenceSession:
        return self._load("score")

    def _load(self, role: str) -> ort.InferenceSession:
        if role not in self._manifest.graphs:
            raise BundleError(f"{self._directory} has no {role} graph: build the engine again")
        path = self._directory / self._manifest.graphs[role]
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = LOG_ERRORS_ONLY
        # Work is handed out in small blocks, so that a core that other programs slow down does not hold up the rest:
        # 3% more tokens/s in decode on two shared cores, nothing lost in prefill.
        options.add_session_config_entry("session.dynamic_block_base", "4")
        providers = ["CPUExecutionProvider"]
        if self._native is not None:
            options.register_custom_ops_library(str(self._native.library))
            try:
                return ort.InferenceSession(str(path), options, providers=providers)
            except Exception:
                # They refuse what they do not implement; ONNX Runtime's own say what is wrong with anything else.
                self._native = None
                return self._load(role)
        try:
            return ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            raise BundleError(f"ONNX Runtime {ort.__version__} cannot load {path}: {first_line(error)}") from error


def _own(cache: Cache) -> OrtCache:
    if not isinstance(cache, OrtCache):
        raise RequestError(f"the cache is a {type(cache).__name__}, take one from this runtime's new_cache()")
    return cache
