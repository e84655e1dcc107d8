"""TensorRT and TensorRT-RTX on an NVIDIA GPU: the adapter of targets `trt` and `trt-rtx`.

The key-value cache stays on the device; token ids and positions go over, and one row of logits a sequence comes back.
"""

from pathlib import Path

import numpy as np

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EngineError
from edgekiln.runtimes.base import Ids, KernelsChoice, Logits, checked_ids
from edgekiln.runtimes.chunked import ChunkedRuntime
from edgekiln.runtimes.cuda.cuda_device import open_device
from edgekiln.runtimes.cuda.device import Device
from edgekiln.runtimes.kv_cache import CacheBinding
from edgekiln.runtimes.tensorrt.binding import GrowingBinding, InPlaceBinding, Staging
from edgekiln.runtimes.tensorrt.kv_cache import GrowingCache, InPlaceCache
from edgekiln.runtimes.tensorrt.library import Library, load_library
from edgekiln.runtimes.tensorrt.profiles import check_engine, check_layout, largest_chunk, profile_for, why_refused
from edgekiln.runtimes.tensorrt.session import Session

_CACHES: dict[str, type[InPlaceCache] | type[GrowingCache]] = {"in-place": InPlaceCache, "growing": GrowingCache}


class TensorRTRuntime(ChunkedRuntime[InPlaceCache | GrowingCache, Session]):
    """A plan loaded on a GPU; see `edgekiln.runtimes.base.Runtime`. Runs are one at a time.

    With a cache in place, rows are stepped together; with a growing one, one after the other.
    """

    library = "TensorRT"

    def __init__(
        self,
        directory: Path,
        manifest: EngineManifest,
        threads: int | None = None,
        chunk: int | None = None,
        kernels: KernelsChoice = "edgekiln",
        cuda_graph: bool = True,
        library: Library | None = None,
        device: Device | None = None,
    ) -> None:
        """Load the plan of a checked engine.

        Args:
            directory, manifest: the engine.
            threads, kernels: ignored.
            chunk: tokens a prefill run takes at once, at most and by default what the plan takes.
            cuda_graph: record a step of a cache in place once and replay it.
            library, device: what to run it with, for programs that have their own; by default the target's library
                and the first GPU.

        Raises:
            EngineError: the plan is not for this library, its version or this GPU, or not what engine.json says.
            EdgekilnError: the library, a driver or a GPU is missing.
        """
        build = check_layout(manifest)
        library = library or load_library(manifest.target)
        device = device or open_device(extra=manifest.target)
        if build.library != library.name:
            raise EngineError(f"the plan was built with {build.library}, target {manifest.target} runs {library.name}")
        try:
            weights = directory / manifest.graphs["generate"] if build.weight_stripped else None
            engine = library.deserialize(directory / manifest.graphs["plan"], weights)
        except EngineError as error:
            raise EngineError(why_refused(build, library.version, device.compute_capability, str(error))) from error
        check_engine(engine, manifest)
        session = Session(engine, library, device, manifest)
        most = largest_chunk(session.profiles)
        super().__init__(manifest, min(chunk or most, most), _CACHES[manifest.kv_cache.layout])
        self.kernels = library.name
        self._generate = session
        self._cuda_graph = cuda_graph
        # Rows are prefilled one at a time, and under the session's lock.
        self._staging = Staging(device, 1, most, session.vocab_size)

    def new_cache(self, batch_size: int = 1) -> InPlaceCache | GrowingCache:
        """An empty cache of `batch_size` rows; memory is taken with the first tokens.

        Raises:
            RequestError: the engine was built for fewer rows.
        """
        session = self._generate
        if self._cache_type is InPlaceCache and batch_size > 1:
            profile_for(session.profiles, batch_size, 1)
        return _CACHES[self._manifest.kv_cache.layout](
            self.properties, session.parts, session.itemsize, session.device, batch_size
        )

    def score(self, tokens: Ids) -> Logits:
        """Logits float32[S, V] of every position of a fresh sequence, int64[S]: a run a token, slow but exact."""
        ids = checked_ids(tokens, self.properties)
        cache = self.new_cache()
        logits: Logits = np.empty((ids.size, self.properties.vocab_size), dtype=np.float32)
        for position in range(ids.size):
            logits[position] = self.step(cache, ids[position : position + 1])[0]
        return logits

    def _bind(self, session: Session, cache: InPlaceCache | GrowingCache, rows: slice) -> CacheBinding:
        together = rows == slice(None)
        if isinstance(cache, GrowingCache):
            return GrowingBinding(session, cache, rows, self._staging)
        batch = cache.batch_size
        # A recording reads and writes the memory it was made with, so rows that are stepped together have their own.
        staging = Staging(session.device, batch, batch, session.vocab_size) if together else self._staging
        return InPlaceBinding(session, cache, rows, staging, replayed=together and self._cuda_graph)
