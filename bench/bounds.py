"""What the machine's memory bounds an engine at: a step reads its weights and what the cache holds, once."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgekiln.bundle import WEIGHTS_FILE, EngineManifest, read_manifest
from edgekiln.runtimes.ort_cpu import DTYPES

# Inputs of which a step reads the rows of its tokens only: embeddings, and the cosines and sines of positions.
ROWS = {("Gather", 0), ("GatherBlockQuantized", 0), ("GatherBlockQuantized", 2), ("GatherBlockQuantized", 3)} | {
    ("GroupQueryAttention", 7),
    ("GroupQueryAttention", 8),
}


def read_gb_per_s(threads: int) -> float:
    """What so many cores read from memory at most: float32 products of 512 MB vectors with themselves, best of 5."""
    vectors = [np.ones(1 << 27, np.float32) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(lambda vector: float(np.dot(vector, vector)), vectors))
            best = max(best, sum(vector.nbytes for vector in vectors) / (time.perf_counter() - start) / 1e9)
    return best


def step_weight_bytes(engine: Path) -> int:
    """Bytes of the weights file that a decode step reads: all but the tables of which it reads single rows."""
    import onnx

    graph = onnx.load(engine / read_manifest(engine, verify=False).graphs["generate"], load_external_data=False).graph
    places = {}
    for tensor in graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            # Tied weights are several tensors at one place.
            places[tensor.name] = (int(entries["offset"]), int(entries["length"]))
    whole = {
        places[name]
        for node in graph.node
        for index, name in enumerate(node.input)
        if name in places and (node.op_type, index) not in ROWS
    }
    return sum(length for _, length in whole)


def weights_file_bytes(engine: Path) -> int:
    """Size of the weights file."""
    return (engine / WEIGHTS_FILE).stat().st_size


def key_value_bytes(manifest: EngineManifest) -> int:
    """Bytes of the keys and values of one token in all layers."""
    sizes = zip(manifest.architecture.kv_heads, manifest.architecture.head_dims, strict=True)
    return 2 * sum(heads * size for heads, size in sizes) * DTYPES[manifest.kv.dtype].itemsize
