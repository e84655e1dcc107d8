"""Scales of an int8 key-value cache, from the keys and values that a float engine computes on calibration text."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgekiln.calib.data.loader import Windows
from edgekiln.runtimes.ort.cpu import OrtCpuRuntime

_CODES = 127
# Text beyond the calibration's goes a little further, and clipping costs far more than coarser steps: of 1, 1.15, 1.3,
# 1.5 and 1.8 this gave the smallest divergence, half that of 1.
_HEADROOM = np.float32(1.15)
# Of a channel that is always zero: any code of 0 stands for it.
_SMALLEST = 1e-8


class CacheScales(NamedTuple):
    """Scales of one layer's cache, float32 [KV, D] each, all positive: key = scale · code, codes in -128..127."""

    key: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]


def cache_scales(
    runtime: OrtCpuRuntime, windows: Windows, progress: Callable[[float], None] = lambda done: None
) -> list[CacheScales]:
    """Scales by which the largest key and value of each channel of each head come near the last code; one a layer.

    A scale a channel costs attention nothing: that of a key is taken into the query, that of a value into the output.
    Keys need it, a few of whose channels are far larger than the rest (KIVI, Liu et al. 2024).

    Args:
        runtime: an engine with a float cache.
        windows: int64 [windows, length] token ids, each run from an empty cache.
        progress: called with the share done.
    """
    largest: list[list[npt.NDArray[np.float32]]] = []
    for done, window in enumerate(windows):
        cache = runtime.new_cache()
        runtime.prefill(cache, 0, window)
        now = [[np.abs(part[0, :, : window.size]).max(axis=1) for part in layer] for layer in cache.layers]
        largest = (
            [[np.maximum(a, b) for a, b in zip(old, new, strict=True)] for old, new in zip(largest, now, strict=True)]
            if largest
            else now
        )
        progress((done + 1) / len(windows))
    return [CacheScales(_scale(key), _scale(value)) for key, value in largest]


def _scale(largest: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(np.maximum(largest, _SMALLEST) * (_HEADROOM / _CODES), dtype=np.float32)
