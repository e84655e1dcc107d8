"""The adapter of target `ort-cpu`: ONNX Runtime on the CPU."""

import platform
from pathlib import Path

import numpy as np

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EngineError
from edgekiln.runtimes.base import KernelsChoice, PackCacheUse
from edgekiln.runtimes.kv_cache import CacheBinding
from edgekiln.runtimes.ort.binding import OrtBinding
from edgekiln.runtimes.ort.kernels import kernel_library
from edgekiln.runtimes.ort.kv_cache import OrtKVCache
from edgekiln.runtimes.ort.library import LOG_FATAL
from edgekiln.runtimes.ort.library import onnxruntime as ort
from edgekiln.runtimes.ort.pack_cache import pack_cache as find_pack_cache
from edgekiln.runtimes.ort.runtime import OrtRuntime, load_error, open_session
from edgekiln.runtimes.threads import default_threads

DEFAULT_CHUNK = 256
CACHE_DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "int8": np.dtype(np.int8),
}
# KV cache types that edgekiln's kernels support.
KERNEL_CACHE_DTYPES = ("float32", "int8")
# ONNX Runtime would give MatMulNBits the bias that is added to its result, an input that the kernel of edgekiln lacks.
WITHOUT_BIAS_FUSION = ("optimization.disable_specified_optimizers", "MatMulNBitsFusion")
# Session option that lets edgekiln's kernels compute prefill attention in bfloat16; read at their registration.
BF16_ATTENTION = ("edgekiln.attention", "bfloat16")
# edgekiln's kernels round activations and accumulate in the same order for up to this many tokens of a sequence as for
# one, so verified tokens get the bits of single steps. Those of ONNX Runtime do not.
MAX_VERIFY_TOKENS = 8
# From so many tokens on, they convert 4-bit weights to 8 bits or bfloat16; in C++, cpp/kernels/pack/packed_nbits.h.
PREFILL_MIN_M = 16 if platform.machine() == "aarch64" else 32


class OrtCpuRuntime(OrtRuntime[OrtKVCache]):
    """Runs an engine in ONNX Runtime on the CPU; see `edgekiln.runtimes.base.Runtime`."""

    def __init__(
        self,
        directory: Path,
        manifest: EngineManifest,
        threads: int | None = None,
        chunk: int | None = None,
        kernels: KernelsChoice = "edgekiln",
        pack_cache: PackCacheUse = "off",
    ) -> None:
        """Load the `generate` graph of a verified engine; for the arguments see `edgekiln.runtimes.open`.

        Args:
            directory, manifest, threads, chunk, kernels: as there.
            pack_cache: what to do with the file of packed weights.

        Raises:
            EngineError: ONNX Runtime refuses the graph, or this adapter does not support the KV cache's layout.
            RequestError: EDGEKILN_ISA names an instruction set that this processor does not support.
        """
        kv_cache = manifest.kv_cache
        if kv_cache.layout != "shared-buffer" or kv_cache.dtype not in CACHE_DTYPES:
            raise EngineError(
                f"the engine's KV cache layout is {kv_cache.layout} {kv_cache.dtype}, "
                f"ort-cpu runs shared-buffer {' or '.join(CACHE_DTYPES)}: build the engine again"
            )
        super().__init__(directory, manifest, chunk or DEFAULT_CHUNK, OrtKVCache)
        self._threads = threads or default_threads()
        library = kernel_library() if kernels == "edgekiln" else None
        self._kernels = library if kv_cache.dtype in KERNEL_CACHE_DTYPES else None
        self._pack_cache = find_pack_cache(directory, manifest, self._kernels, pack_cache)
        self._generate = self._load("generate")

    @property
    def kernels(self) -> str:  # type: ignore[override]
        """The instruction set of edgekiln's kernels, "onnxruntime" where they do not run."""
        return self._kernels.instruction_set if self._kernels else "onnxruntime"

    def keep_packed_weights(self) -> None:
        """See `edgekiln.runtimes.base.Runtime`."""
        if self._kernels and self._pack_cache:
            self._pack_cache.keep()

    @property
    def max_verify_tokens(self) -> int:  # type: ignore[override]
        """`MAX_VERIFY_TOKENS` with all of edgekiln's kernels and a graph with the input `logits_to_keep`, else 1.

        1 with states, from which tokens that are not accepted cannot be dropped.
        """
        if self.properties.states or self._manifest.io.logits_to_keep is None:
            return 1
        return MAX_VERIFY_TOKENS if self._kernels is not None and self._kernels.complete else 1

    @property
    def run_sizes(self) -> tuple[int, ...]:  # type: ignore[override]
        """Those of edgekiln's kernels, for quantized engines without states; see `edgekiln.runtimes.base.Runtime`.

        Not for mixtures of experts, whose experts convert 4-bit weights from another number of tokens on.
        """
        scheme = self._manifest.quantization.scheme
        if self.max_verify_tokens == 1 or scheme == "none":
            return ()
        one_token = MAX_VERIFY_TOKENS + 1
        return (one_token,) if scheme == "int8" else (one_token, PREFILL_MIN_M)

    def new_cache(self, batch_size: int = 1) -> OrtKVCache:
        """An empty KV cache for `batch_size` sequences."""
        return OrtKVCache(self.properties, CACHE_DTYPES[self._manifest.kv_cache.dtype], batch_size, self.chunk)

    def _bind(
        self, session: ort.InferenceSession, cache: OrtKVCache, sequences: slice, decode: bool = False
    ) -> OrtBinding:
        names = self._manifest.io
        if session is not self._generate:
            names = names.model_copy(update={"logits_to_keep": None})
        return OrtBinding(session, names, cache, sequences)

    def _prompt_binding(self, session: ort.InferenceSession, cache: OrtKVCache, sequence: int) -> CacheBinding:
        """The binding for runs of a prompt, kept with the cache, as a new one takes half a millisecond."""
        if session is not self._generate:
            return super()._prompt_binding(session, cache, sequence)
        if sequence not in cache.prompt_bindings:
            cache.prompt_bindings[sequence] = super()._prompt_binding(session, cache, sequence)
        return cache.prompt_bindings[sequence]

    def _open(self, path: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = LOG_FATAL
        # Smaller blocks of work, so that a core that other processes slow down does not delay the others: 3% more
        # tokens/s in decode on two shared cores, no loss in prefill.
        options.add_session_config_entry("session.dynamic_block_base", "4")
        # Idle threads of the pool spin for some 50 ms by default, on cores that other programs need. edgekiln's kernels
        # keep their threads busy from the first layer to the last; the time between two tokens is what has to be
        # bridged. ONNX Runtime's own kernels enter the pool for every node.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "100" if self._kernels else "1000")
        options.add_session_config_entry("session.intra_op.spin_backoff_max", "1")
        providers = ["CPUExecutionProvider"]
        if self._kernels is not None:
            if self._manifest.quantization.scheme != "none":
                options.add_session_config_entry(*BF16_ATTENTION)
            for name, value in self._pack_cache.entries().items() if self._pack_cache else ():
                options.add_session_config_entry(name, value)
            options.register_custom_ops_library(str(self._kernels.library))
            options.add_session_config_entry(*WITHOUT_BIAS_FUSION)
            # A memory pattern is allocated per input shape, on top of the memory of earlier shapes. With edgekiln's
            # kernels the graph has few nodes and gains nothing from one.
            options.enable_mem_pattern = False
            try:
                return open_session(path, options, providers)
            except Exception:
                # edgekiln's kernels refuse attributes that they do not implement. If that is not the reason, loading
                # with ONNX Runtime's kernels raises the error again.
                self._kernels = None
                return self._open(path)
        try:
            return open_session(path, options, providers)
        except Exception as error:
            raise load_error(path, error) from error
