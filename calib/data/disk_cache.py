"""A disk cache for calibration data, in the user's cache directory."""

import contextlib
import hashlib
import os
import random
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekiln.engine.temporary import temporary_file
from edgekiln.sources.base import ModelSource

# Number of tensors whose values are part of a model's fingerprint: enough to tell a fine-tuned model from its base, and
# a small part of what has to be read of a large model.
_TENSORS = 16


def cache_directory() -> Path:
    """The directory edgekiln in $XDG_CACHE_HOME, or in the platform's cache directory."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "edgekiln"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "edgekiln" / "cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "edgekiln"


def fingerprint(source: ModelSource) -> str:
    """A hash of a model's configuration, tokenizer, tensor names and some of its weights.

    Raises:
        SourceError: a weight is damaged.
    """
    digest = hashlib.sha256(source.config.to_json_string(use_diff=False).encode())
    digest.update(source.tokenizer_json.encode())
    names = sorted(source.weights.keys())
    digest.update("\n".join(names).encode())
    for name in random.Random(0).sample(names, min(_TENSORS, len(names))):
        digest.update(source.weights.read(name).float().numpy().tobytes())
    return digest.hexdigest()[:24]


def load(name: str) -> npt.NDArray[np.int64] | None:
    """The cached int64 [rows, columns] array `name`; None if it is missing or damaged."""
    try:
        array = np.load(cache_directory() / name, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if isinstance(array, np.ndarray) and array.dtype == np.int64 and array.ndim == 2 else None


def store(name: str, array: npt.NDArray[np.int64]) -> None:
    """Cache int64 [rows, columns] as `name`, atomically. Does nothing if the cache cannot be written."""
    path = cache_directory() / name
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path) as temporary:
            with temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            temporary.replace(path)
