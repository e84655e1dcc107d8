"""The adapter of targets `trt` and `trt-rtx`: TensorRT and TensorRT-RTX on an NVIDIA GPU.

The KV cache stays in device memory. A run copies token ids and positions to the device, and the logits of each
sequence's last position back.
"""

from pathlib import Path

import numpy as np

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EngineError
from edgekiln.runtimes.base import Ids, KernelsChoice, Logits, PackCacheUse, checked_ids
from edgekiln.runtimes.chunked import ChunkedRuntime
from edgekiln.runtimes.cuda.cuda_device import open_device
from edgekiln.runtimes.cuda.device import Device
from edgekiln.runtimes.kv_cache import CacheBinding
from edgekiln.runtimes.tensorrt.binding import GrowingBinding, InPlaceBinding, Staging
from edgekiln.runtimes.tensorrt.kv_cache import GrowingKVCache, InPlaceKVCache
from edgekiln.runtimes.tensorrt.library import TensorRTLibrary, load_library
from edgekiln.runtimes.tensorrt.profiles import check_layout, check_plan, largest_chunk, profile_for, why_refused
from edgekiln.runtimes.tensorrt.session import TensorRTSession

_CACHES: dict[str, type[InPlaceKVCache] | type[GrowingKVCache]] = {
    "in-place": InPlaceKVCache,
    "growing": GrowingKVCache,
}


class TensorRTRuntime(ChunkedRuntime[InPlaceKVCache | GrowingKVCache, TensorRTSession]):
    """Runs a plan on a GPU; see `edgekiln.runtimes.base.Runtime`. A lock serializes the runs.

    A decode step is one run with an in-place cache, and one run per sequence with a growing cache.

    Attributes:
        kernels: the name of the library, "tensorrt" or "tensorrt_rtx".
    """

    library = "TensorRT"

    def __init__(
        self,
        directory: Path,
        manifest: EngineManifest,
        threads: int | None = None,
        chunk: int | None = None,
        kernels: KernelsChoice = "edgekiln",
        pack_cache: PackCacheUse = "off",
        cuda_graph: bool = True,
        library: TensorRTLibrary | None = None,
        device: Device | None = None,
    ) -> None:
        """Load the plan of a verified engine.

        Args:
            directory, manifest: the engine.
            threads, kernels, pack_cache: ignored.
            chunk: most tokens per run in prefill; by default, and at most, the largest that the plan supports.
            cuda_graph: capture the decode step of an in-place cache as a CUDA graph and replay it.
            library, device: by default the library of the target and the first GPU.

        Raises:
            EngineError: the plan is for another library, version or GPU, or does not match engine.json.
            EdgekilnError: the library, a driver or a GPU is missing.
        """
        build = check_layout(manifest)
        library = library or load_library(manifest.target)
        device = device or open_device(extra=manifest.target)
        if build.library != library.name:
            raise EngineError(f"the plan was built with {build.library}, target {manifest.target} runs {library.name}")
        try:
            weights = directory / manifest.graphs["generate"] if build.weight_stripped else None
            plan = library.deserialize(directory / manifest.graphs["plan"], weights)
        except EngineError as error:
            raise EngineError(why_refused(build, library.version, device.compute_capability, str(error))) from error
        check_plan(plan, manifest)
        session = TensorRTSession(plan, library, device, manifest)
        most = largest_chunk(session.profiles)
        super().__init__(manifest, min(chunk or most, most), _CACHES[manifest.kv_cache.layout])
        self.kernels = library.name
        self._generate = session
        self._cuda_graph = cuda_graph
        # Shared by all prefill runs: each takes one sequence, under the session's lock.
        self._staging = Staging(device, 1, most, session.vocab_size)

    def new_cache(self, batch_size: int = 1) -> InPlaceKVCache | GrowingKVCache:
        """An empty KV cache for `batch_size` sequences.

        Raises:
            RequestError: `batch_size` is less than 1, or more than the engine was built for.
        """
        session = self._generate
        if self._cache_type is InPlaceKVCache and batch_size > 1:
            profile_for(session.profiles, batch_size, 1)
        return _CACHES[self._manifest.kv_cache.layout](
            self.properties, session.parts, session.itemsize, session.device, batch_size
        )

    def score(self, tokens: Ids) -> Logits:
        """Logits of every position of a new sequence int64[S], as float32[S, V].

        One decode step per token, because a plan gives logits of the last position only.
        """
        ids = checked_ids(tokens, self.properties)
        cache = self.new_cache()
        logits: Logits = np.empty((ids.size, self.properties.vocab_size), dtype=np.float32)
        for position in range(ids.size):
            logits[position] = self.step(cache, ids[position : position + 1])[0]
        return logits

    def _bind(
        self, session: TensorRTSession, cache: InPlaceKVCache | GrowingKVCache, sequences: slice, decode: bool = False
    ) -> CacheBinding:
        if isinstance(cache, GrowingKVCache):
            return GrowingBinding(session, cache, sequences, self._staging)
        batch = sequences.stop - sequences.start
        # A CUDA graph replays with the addresses that it was captured with, so decode steps have their own staging.
        staging = Staging(session.device, batch, batch, session.vocab_size) if decode else self._staging
        return InPlaceBinding(session, cache, sequences, staging, replay=decode and self._cuda_graph)
