"""Scales of an int8 KV cache, from the keys and values that an engine with a float cache computes on calibration data.

This quantizes the cache of a finished engine rather than a model's weights: `--kv int8` selects it, and it has no
entry in the table of quantizers.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgekiln.calib.data.loader import Windows
from edgekiln.progress import StepProgress
from edgekiln.runtimes.ort.cpu import OrtCpuRuntime
from edgekiln.runtimes.window_buffer import REWIND

_INT8_MAX = 127
_PART = REWIND  # tokens
# Other texts exceed the calibration data's range a little, and clipping costs far more than coarser steps. Of 1, 1.15,
# 1.3, 1.5 and 1.8, this factor gave the smallest KL divergence, half that of 1.
_HEADROOM = np.float32(1.15)
# Lower limit of the magnitude, for channels that are always zero.
_SMALLEST = 1e-8


class CacheScales(NamedTuple):
    """Scales of a KV cache layer: key = scale * code with codes in -128..127, and likewise for values.

    Attributes:
        key, value: float32 [KV, D], positive.
    """

    key: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]


def cache_scales(
    runtime: OrtCpuRuntime, windows: Windows, progress: StepProgress = lambda _done: None
) -> list[CacheScales]:
    """Compute a scale per channel of each KV head, from the channel's largest magnitude.

    Scales per channel are free in attention: a key's scale is folded into the query, a value's into the output. Keys
    need them, since a few of their channels are far larger than the rest (KIVI, Liu et al. 2024).

    Args:
        runtime: an engine with a float cache.
        windows: int64 [windows, length] token ids; each window starts with an empty cache.
        progress: called with the share of the windows that are done.

    Returns:
        One entry per KV cache layer.
    """
    largest: list[list[npt.NDArray[np.float32]]] = []
    layers = len(runtime.properties.kv_heads)
    for done, window in enumerate(windows):
        cache = runtime.new_cache()
        cache.keep_snapshots = False
        # In parts, since layers with a window buffer hold the last tokens only.
        for start in range(0, window.size, _PART):
            runtime.prefill(cache, 0, window[start : start + _PART])
            now = [[np.abs(part).max(axis=1) for part in cache.held(0, layer, start)] for layer in range(layers)]
            largest = (
                [[np.maximum(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(largest, now, strict=True)]
                if largest
                else now
            )
        progress((done + 1) / len(windows))
    return [CacheScales(_scale(key), _scale(value)) for key, value in largest]


def _scale(largest: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(np.maximum(largest, _SMALLEST) * (_HEADROOM / _INT8_MAX), dtype=np.float32)
