"""Memory-bandwidth bounds: a decode step reads the weights and the KV cache once."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgekiln.engine.directory import WEIGHTS_FILE
from edgekiln.engine.manifest import EngineManifest, read_manifest
from edgekiln.runtimes.ort.cpu import CACHE_DTYPES

# (op, input) tables of which a step reads single rows only: embeddings.
ROW_TABLES = {("Gather", 0), ("GatherBlockQuantized", 0), ("GatherBlockQuantized", 2), ("GatherBlockQuantized", 3)}
# Codes of which a step reads the high nibbles only, except for candidates.
HIGH_NIBBLES = ("TwoPassMatMulNBits", 1)


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


def step_weight_bytes(engine: Path) -> int:
    """Bytes of weights that edgekiln's kernels read in a decode step.

    All weights except row tables; float32 values that float16 represents exactly count 2 bytes, and the codes of a
    two-pass LM head count their high nibbles.
    """
    import onnx

    graph = onnx.load(engine / read_manifest(engine, verify=False).graphs["generate"], load_external_data=False).graph
    weights = np.memmap(engine / WEIGHTS_FILE, np.uint8, mode="r")
    tensors = {}
    for tensor in graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            tensors[tensor.name] = (int(entries["offset"]), int(entries["length"]), tensor.data_type)
    read = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name not in tensors or (node.op_type, index) in ROW_TABLES:
                continue
            # Tied weights are several initializers at one offset.
            offset, length, kind = tensors[name]
            half = kind == onnx.TensorProto.FLOAT and _fits_float16(weights[offset : offset + length])
            read[offset] = length // 2 if half or (node.op_type, index) == HIGH_NIBBLES else length
    return sum(read.values())


def _fits_float16(data: np.ndarray) -> bool:
    values = data.view(np.float32)
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values, values.astype(np.float16)))


def weights_file_bytes(engine: Path) -> int:
    """Size of the weights file in bytes."""
    return (engine / WEIGHTS_FILE).stat().st_size


def key_value_bytes(manifest: EngineManifest) -> int:
    """KV cache bytes of one token over all layers."""
    sizes = zip(manifest.architecture.kv_heads, manifest.architecture.head_dims, strict=True)
    return 2 * sum(heads * size for heads, size in sizes) * CACHE_DTYPES[manifest.kv_cache.dtype].itemsize
