"""Memory-bandwidth bounds: a decode step reads the weights and the KV cache once."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgekiln.engine.directory import WEIGHTS_FILE
from edgekiln.engine.manifest import EngineManifest
from edgekiln.runtimes.ort.cpu import CACHE_DTYPES


def read_gb_per_s(threads: int) -> float:
    """Read bandwidth of that many threads in GB/s: float32 dot products of 512 MB vectors, best of 5."""
    vectors = [np.ones(1 << 27, np.float32) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(lambda vector: float(np.dot(vector, vector)), vectors))
            best = max(best, sum(vector.nbytes for vector in vectors) / (time.perf_counter() - start) / 1e9)
    return best


def weights_file_bytes(engine: Path) -> int:
    """Size of the weights file in bytes."""
    return (engine / WEIGHTS_FILE).stat().st_size


def key_value_bytes(manifest: EngineManifest) -> int:
    """KV cache bytes of one token over all layers."""
    sizes = zip(manifest.architecture.kv_heads, manifest.architecture.head_dims, strict=True)
    return 2 * sum(heads * size for heads, size in sizes) * CACHE_DTYPES[manifest.kv_cache.dtype].itemsize
