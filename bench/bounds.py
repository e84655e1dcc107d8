"""What the machine's memory bounds an engine at: a step reads its weights and what the cache holds, once."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgekiln.engine.directory import WEIGHTS_FILE
from edgekiln.engine.manifest import EngineManifest, read_manifest
from edgekiln.runtimes.ort.cpu import DTYPES

# Inputs of which a step reads the rows of its tokens only: embeddings, and the cosines and sines of positions.
ROWS = {("Gather", 0), ("GatherBlockQuantized", 0), ("GatherBlockQuantized", 2), ("GatherBlockQuantized", 3)} | {
    ("GroupQueryAttention", 7),
    ("GroupQueryAttention", 8),
}
ROWS_OF_LAYERS = (4, 5)  # of an op that is all layers of a decoder
# The codes of which a step reads the upper halves, but for a few.
UPPER_HALVES = ("TwoPassMatMulNBits", 1)


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
    """Bytes of weights that edgekiln's kernels read in a decode step: all but the tables of which they read rows,
    numbers in binary16 where it holds them, and of the codes of logits the upper halves.
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
            if name not in tensors or _is_of_rows(node.op_type, index):
                continue
            # Tied weights are several tensors at one place.
            offset, length, kind = tensors[name]
            small = kind == onnx.TensorProto.FLOAT and _fits_binary16(weights[offset : offset + length])
            read[offset] = length // 2 if small or (node.op_type, index) == UPPER_HALVES else length
    return sum(read.values())


def _is_of_rows(op: str, index: int) -> bool:
    return (op, index) in ROWS or ("DecoderLayers" in op and index in ROWS_OF_LAYERS)


def _fits_binary16(data: np.ndarray) -> bool:
    numbers = data.view(np.float32)
    with np.errstate(over="ignore"):
        return bool(np.array_equal(numbers, numbers.astype(np.float16)))


def weights_file_bytes(engine: Path) -> int:
    """Size of the weights file."""
    return (engine / WEIGHTS_FILE).stat().st_size


def key_value_bytes(manifest: EngineManifest) -> int:
    """Bytes of the keys and values of one token in all layers."""
    sizes = zip(manifest.architecture.kv_heads, manifest.architecture.head_dims, strict=True)
    return 2 * sum(heads * size for heads, size in sizes) * DTYPES[manifest.kv_cache.dtype].itemsize
