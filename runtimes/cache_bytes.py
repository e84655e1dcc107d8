"""Memory of a KV cache and of states."""

import math

from edgekiln.engine.manifest import EngineManifest
from edgekiln.runtimes.window_buffer import WindowBuffer

_WIDTH = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


def sequence_bytes(manifest: EngineManifest, tokens: int) -> int:
    """Bytes of keys and values of one sequence, over all KV cache layers.

    Args:
        manifest: the engine.
        tokens: tokens that the cache has room for; KV cache layers with window buffers have room for fewer.
    """
    model, kv_cache = manifest.architecture, manifest.kv_cache
    windows = kv_cache.windows or [0] * len(model.kv_heads)
    layers = zip(model.kv_heads, model.head_dims, windows, strict=True)
    slots = {window: min(tokens, WindowBuffer.of(window).capacity) if window else tokens for window in set(windows)}
    return sum(2 * heads * size * slots[window] for heads, size, window in layers) * _WIDTH[kv_cache.dtype]


def state_bytes(manifest: EngineManifest) -> int:
    """Bytes of the states of one sequence. A cache holds them twice, and once more for each snapshot."""
    return sum(math.prod(state.shape) * _WIDTH[state.dtype] for state in manifest.kv_cache.states)
