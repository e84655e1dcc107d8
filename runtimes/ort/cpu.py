"""ONNX Runtime on the CPU: the adapter of target `ort-cpu`.

The graph's attention is GroupQueryAttention over a shared buffer. It takes every row's past length from
`position_ids[b, 0]`, so rows of different lengths are stepped together without padding.
"""

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import psutil

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EngineError, first_line
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.runtimes.ort.kernels import kernel_library
from edgekiln.runtimes.ort.kv_cache import Binding, OrtCache
from edgekiln.runtimes.ort.runtime import OrtRuntime

DEFAULT_CHUNK = 256
DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "int8": np.dtype(np.int8),
}
# Of caches that edgekiln's own kernels read.
NATIVE_DTYPES = ("float32", "int8")
LOG_ERRORS_ONLY = 3
# What edgekiln's kernels may round in prompts: read when they are registered with a session.
ROUNDED_ATTENTION = ("edgekiln.attention", "bfloat16")
# Tokens of a row that edgekiln's own kernels run together with the bits of one by one: theirs round activations and add
# up alike for up to so many. ONNX Runtime's do not.
TOGETHER = 8


def default_threads() -> int:
    """Physical cores this process may run on; a second thread on one core slows matrix products down."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


class OrtCpuRuntime(OrtRuntime[OrtCache]):
    """An engine loaded in ONNX Runtime; see `edgekiln.runtimes.base.Runtime`."""

    def __init__(
        self,
        directory: Path,
        manifest: EngineManifest,
        threads: int | None = None,
        chunk: int | None = None,
        kernels: KernelsChoice = "edgekiln",
    ) -> None:
        """Load the `generate` graph of a checked engine.

        With `kernels="edgekiln"`, edgekiln's kernels are used where they are built and support the graph.

        Raises:
            EngineError: ONNX Runtime refuses the graph, or its cache layout is not for this adapter.
        """
        if manifest.kv_cache.layout != "shared-buffer" or manifest.kv_cache.dtype not in DTYPES:
            raise EngineError(
                f"the engine's key-value layout is {manifest.kv_cache.layout} {manifest.kv_cache.dtype}, "
                f"ort-cpu runs shared-buffer {' or '.join(DTYPES)}: build the engine again"
            )
        super().__init__(directory, manifest, chunk or DEFAULT_CHUNK, OrtCache)
        self._threads = threads or default_threads()
        self._library = kernel_library() if kernels == "edgekiln" and manifest.kv_cache.dtype in NATIVE_DTYPES else None
        self._generate = self._load("generate")

    @property
    def kernels(self) -> str:
        """`onnxruntime`, or the instruction set of edgekiln's kernels."""
        return self._library.instruction_set if self._library else "onnxruntime"

    @property
    def max_verify_tokens(self) -> int:  # type: ignore[override]
        """`TOGETHER` with edgekiln's own kernels and a graph that gives logits of several positions, else 1."""
        return TOGETHER if self._library and self._manifest.io.logits_to_keep is not None else 1

    def new_cache(self, batch_size: int = 1) -> OrtCache:
        """An empty cache of `batch_size` rows; memory is taken as tokens come."""
        return OrtCache(self.properties, DTYPES[self._manifest.kv_cache.dtype], batch_size)

    def _bind(self, session: ort.InferenceSession, cache: OrtCache, rows: slice) -> Binding:
        names = self._manifest.io
        if session is not self._generate:
            names = names.model_copy(update={"logits_to_keep": None})
        return Binding(session, names, cache, rows)

    def _open(self, path: Path) -> ort.InferenceSession:
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
        if self._library is not None:
            if self._manifest.quantization.scheme != "none":
                options.add_session_config_entry(*ROUNDED_ATTENTION)
            options.register_custom_ops_library(str(self._library.library))
            # What is planned for a number of tokens is allocated beside what the run before holds; few nodes need no
            # plan.
            options.enable_mem_pattern = False
            try:
                return ort.InferenceSession(str(path), options, providers=providers)
            except Exception:
                # They refuse what they do not implement; ONNX Runtime's own say what is wrong with anything else.
                self._library = None
                return self._open(path)
        try:
            return ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path}: {first_line(error)}") from error
