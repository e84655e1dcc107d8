"""ONNX Runtime on an NVIDIA GPU: the adapter of target `ort-cuda`.

The key-value cache stays on the device, bound to the graph as past and as present; what goes over per run is token ids
and positions, and logits come back. With a CUDA graph, a decode step is launched as one piece.
"""

import contextlib
import io
import itertools
import threading
from pathlib import Path

import onnxruntime as ort

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EdgekilnError, EngineError, first_line
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.runtimes.ort.cuda_kv_cache import DeviceBinding, DeviceCache, Growth, Launch
from edgekiln.runtimes.ort.runtime import OrtRuntime

DEFAULT_CHUNK = 2048
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
INSTALL = "pip uninstall onnxruntime; pip install 'edgekiln[gpu]'"
_NO_GRAPH = "-1"
_LOG_FATAL = 4


class OrtCudaRuntime(OrtRuntime[DeviceCache]):
    """An engine loaded on a GPU; see `edgekiln.runtimes.base.Runtime`. Runs are one at a time."""

    kernels = "onnxruntime"

    def __init__(
        self,
        directory: Path,
        manifest: EngineManifest,
        threads: int | None = None,
        chunk: int | None = None,
        kernels: KernelsChoice = "edgekiln",
        device: str = "cuda",
        cuda_graph: bool = True,
    ) -> None:
        """Load the `generate` graph of a checked engine.

        Args:
            directory, manifest: the engine.
            threads: for what runs on the host, by default one.
            chunk: tokens a prefill run takes at once.
            kernels: ignored, ONNX Runtime's CUDA kernels always run.
            device: `cuda`, or `cpu` to run the same graph and the same buffers without a GPU.
            cuda_graph: record a decode step once and replay it: two to three times as fast, with attention over the
                cache's whole capacity.

        Raises:
            EngineError: ONNX Runtime refuses the graph, or its cache layout is not for this adapter.
            EdgekilnError: this machine has no CUDA that ONNX Runtime can use.
        """
        if (manifest.kv_cache.layout, manifest.kv_cache.dtype) != ("shared-buffer", "float16") or manifest.io.total_length is None:
            raise EngineError(
                f"the engine's key-value layout is {manifest.kv_cache.layout} {manifest.kv_cache.dtype}, "
                "ort-cuda runs shared-buffer float16: build the engine again"
            )
        _check(device)
        super().__init__(directory, manifest, chunk or DEFAULT_CHUNK, DeviceCache)
        self._threads = threads or 1
        self._device = device
        self._cuda_graph = cuda_graph
        self._graph_ids = itertools.count(1)
        self._one_at_a_time = threading.Lock()
        self._generate = self._load("generate")
        self._growth = Growth(self._load("grow"), device)

    def new_cache(self, batch_size: int = 1) -> DeviceCache:
        """An empty cache of `batch_size` rows; memory is taken as tokens come."""
        return DeviceCache(self.properties, self._growth, batch_size)

    def _bind(self, session: ort.InferenceSession, cache: DeviceCache, rows: slice) -> DeviceBinding:
        all_rows = rows == slice(None)
        options = ort.RunOptions()
        if self._cuda_graph:
            # A recorded step reads the buffers it was recorded with, so each binding has a graph of its own.
            options.add_run_config_entry("gpu_graph_id", str(next(self._graph_ids)) if all_rows else _NO_GRAPH)
        launch = Launch(self._device, options, self._one_at_a_time, fixed_length=self._cuda_graph and all_rows)
        return DeviceBinding(session, self._manifest.io, cache, rows, launch)

    def _open(self, path: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # What goes wrong is raised; the library would print it too.
        options.log_severity_level = _LOG_FATAL
        provider = PROVIDERS[self._device]
        about = {}
        if self._device == "cuda":
            about = {"device_id": "0", "enable_cuda_graph": "1" if self._cuda_graph and self._is_decoded(path) else "0"}
        try:
            session = ort.InferenceSession(str(path), options, providers=[(provider, about)])
        except Exception as error:
            raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path}: {first_line(error)}") from error
        if provider not in session.get_providers():
            raise EdgekilnError(
                f"ONNX Runtime {ort.__version__} cannot use CUDA on this machine: it needs an NVIDIA driver and the "
                "libraries of CUDA and cuDNN it was built for (`edgekiln doctor` shows what is there)"
            )
        return session

    def _is_decoded(self, path: Path) -> bool:
        return path.name == self._manifest.graphs["generate"]


def _check(device: str) -> None:
    if device not in PROVIDERS:
        raise EdgekilnError(f"device must be one of {', '.join(PROVIDERS)}, got {device}")
    if PROVIDERS[device] not in ort.get_available_providers():
        raise EdgekilnError(f"ONNX Runtime {ort.__version__} as installed has no CUDA: {INSTALL}")
    if device == "cuda":
        # CUDA and cuDNN as pip installs them are in no search path; what it cannot find, it prints.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
