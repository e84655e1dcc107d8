"""The pack cache: packed weights in a file beside the engine, which edgekiln's kernels write once and then map.

The kernels do the reading and writing (cpp/kernels/pack/pack_cache.h); this chooses the file. Counterpart of
cpp/src/runtime/ort/pack_cache.cpp.
"""

import contextlib
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from edgekiln.engine.directory import WEIGHTS_FILE
from edgekiln.engine.manifest import EngineManifest
from edgekiln.engine.packed_directory import PACKED_DIRECTORY
from edgekiln.engine.utf8_path import is_utf8
from edgekiln.runtimes.base import PackCacheUse
from edgekiln.runtimes.ort.kernels import KernelLibrary

# Weights of this size are packed in a quarter of a second. Smaller ones stay in anonymous huge pages, which every
# kernel and file system has; their engines write nothing.
LEAST_BYTES = 256 << 20
_MAX_PATH = 2000  # bytes; ONNX Runtime limits the values of session entries
_HASH_DIGITS = 16


@dataclass(frozen=True)
class PackCache:
    """The file of packed weights of an engine, for one instruction set.

    Attributes:
        library: the kernels that read and write it.
        file: absolute path.
        weights: path of the weights file.
        key: its SHA-256 in hexadecimal.
        use: "read", "write" or "temporary".
    """

    library: Path
    file: str
    weights: str
    key: str
    use: PackCacheUse

    def entries(self) -> dict[str, str]:
        """The session config entries that tell the kernels."""
        return {
            "edgekiln.pack_cache": self.file,
            "edgekiln.pack_cache.weights": self.weights,
            "edgekiln.pack_cache.key": self.key,
            "edgekiln.pack_cache.use": self.use,
        }

    def keep(self) -> None:
        """Let the file that a session wrote stay, now that the weights it was made from have been checked."""
        if self.use == "write":
            with contextlib.suppress(AttributeError):  # kernels of an older version, which wrote none
                ctypes.CDLL(str(self.library)).edgekiln_ops_keep_pack_cache(os.fsencode(self.file))


def pack_cache(
    directory: Path, manifest: EngineManifest, kernels: KernelLibrary | None, use: PackCacheUse
) -> PackCache | None:
    """The pack cache of an engine.

    Args:
        directory, manifest: the engine.
        kernels: edgekiln's kernels, None where they do not run.
        use: what the session does with it.

    Returns:
        None where none is used, also because the weights are small or the path cannot be told to ONNX Runtime.
    """
    key = manifest.files.get(WEIGHTS_FILE)
    if kernels is None or use == "off" or key is None:
        return None
    try:
        weights = Path(os.path.realpath(directory / WEIGHTS_FILE))
        if weights.stat().st_size < LEAST_BYTES:
            return None
    except OSError:
        return None
    real = Path(os.path.realpath(directory))
    name = f"{key[:_HASH_DIGITS]}.{kernels.instruction_set}.packed"
    file = real / name if use == "temporary" else real / PACKED_DIRECTORY / name
    if any(not is_utf8(path) or len(os.fsencode(path)) > _MAX_PATH for path in (file, weights)):
        return None
    return PackCache(kernels.library, str(file), str(weights), key, use)
