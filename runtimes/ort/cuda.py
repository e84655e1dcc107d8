"""The adapter of target `ort-cuda`: ONNX Runtime on an NVIDIA GPU.

The KV cache stays in device memory, bound as past and as present. A run copies token ids and positions to the device
and logits back. A decode step can be captured as a CUDA graph, which replays it in a single launch.
"""

import contextlib
import io
import itertools
import threading
from pathlib import Path

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EdgekilnError, EngineError
from edgekiln.runtimes.base import KernelsChoice, PackCacheUse
from edgekiln.runtimes.ort.cuda_kv_cache import OrtCudaBinding, OrtCudaKVCache, RunConfig
from edgekiln.runtimes.ort.grow_graph import GrowGraph
from edgekiln.runtimes.ort.library import LOG_FATAL
from edgekiln.runtimes.ort.library import onnxruntime as ort
from edgekiln.runtimes.ort.runtime import OrtRuntime, load_error, open_session

DEFAULT_CHUNK = 2048
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
INSTALL = "pip uninstall onnxruntime; pip install 'edgekiln[gpu]'"
_NO_GRAPH = "-1"


class OrtCudaRuntime(OrtRuntime[OrtCudaKVCache]):
    """Runs an engine in ONNX Runtime on a GPU; see `edgekiln.runtimes.base.Runtime`. A lock serializes the runs."""

    kernels = "onnxruntime"

    def __init__(
        self,
        directory: Path,
        manifest: EngineManifest,
        threads: int | None = None,
        chunk: int | None = None,
        kernels: KernelsChoice = "edgekiln",
        pack_cache: PackCacheUse = "off",
        device: str = "cuda",
        cuda_graph: bool = True,
    ) -> None:
        """Load the `generate` and `grow` graphs of a verified engine.

        Args:
            directory, manifest: the engine.
            threads: for nodes that run on the host, by default 1.
            chunk: most tokens per run in prefill.
            kernels, pack_cache: ignored; edgekiln has no kernels for CUDA.
            device: "cuda", or "cpu" to run the same graphs and buffers without a GPU.
            cuda_graph: capture the decode step as a CUDA graph and replay it. That is two to three times as fast,
                although attention then runs over the cache's whole capacity.

        Raises:
            EngineError: ONNX Runtime refuses a graph, or this adapter does not support the KV cache's layout.
            EdgekilnError: ONNX Runtime cannot use CUDA on this machine.
        """
        kv_cache = manifest.kv_cache
        layout = f"{kv_cache.layout} {kv_cache.dtype}{' with windows' if any(kv_cache.windows) else ''}"
        if layout != "shared-buffer float16" or manifest.io.total_length is None:
            raise EngineError(
                f"the engine's KV cache layout is {layout}, ort-cuda runs shared-buffer float16: build the engine again"
            )
        _check_device(device)
        super().__init__(directory, manifest, chunk or DEFAULT_CHUNK, OrtCudaKVCache)
        self._threads = threads or 1
        self._device = device
        self._cuda_graph = cuda_graph
        self._graph_ids = itertools.count(1)
        self._lock = threading.Lock()
        self._generate = self._load("generate")
        self._grow_graph = GrowGraph(self._load("grow"), device, self._lock)

    def new_cache(self, batch_size: int = 1) -> OrtCudaKVCache:
        """An empty KV cache for `batch_size` sequences."""
        return OrtCudaKVCache(self.properties, self._grow_graph, batch_size)

    def _bind(
        self, session: ort.InferenceSession, cache: OrtCudaKVCache, sequences: slice, decode: bool = False
    ) -> OrtCudaBinding:
        options = [self._run_options(decode) for _ in range(2 if cache.states else 1)]
        config = RunConfig(self._device, options, self._lock, fixed_length=self._cuda_graph and decode)
        return OrtCudaBinding(session, self._manifest.io, cache, sequences, config)

    def _run_options(self, decode: bool) -> ort.RunOptions:
        options = ort.RunOptions()
        if self._cuda_graph:
            # A CUDA graph replays with the addresses that it was captured with, so each binding has its own.
            options.add_run_config_entry("gpu_graph_id", str(next(self._graph_ids)) if decode else _NO_GRAPH)
        return options

    def _open(self, path: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = LOG_FATAL
        provider = PROVIDERS[self._device]
        provider_options = {}
        if self._device == "cuda":
            capture = self._cuda_graph and path.name == self._manifest.graphs["generate"]
            provider_options = {"device_id": "0", "enable_cuda_graph": "1" if capture else "0"}
        try:
            session = open_session(path, options, [(provider, provider_options)])
        except Exception as error:
            raise load_error(path, error) from error
        if provider not in session.get_providers():
            raise EdgekilnError(
                f"ONNX Runtime {ort.__version__} cannot use CUDA on this machine: it needs an NVIDIA driver and the "
                "libraries of CUDA and cuDNN it was built for (`edgekiln doctor` shows what is there)"
            )
        return session


def _check_device(device: str) -> None:
    if device not in PROVIDERS:
        raise EdgekilnError(f"device must be one of {', '.join(PROVIDERS)}, got {device}")
    if PROVIDERS[device] not in ort.get_available_providers():
        raise EdgekilnError(f"ONNX Runtime {ort.__version__} as installed has no CUDA: {INSTALL}")
    if device == "cuda":
        # The CUDA and cuDNN packages of pip are on no library search path. preload_dlls prints what it cannot find.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
