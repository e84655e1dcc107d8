"""edgekiln's kernels for ONNX Runtime: a custom-op library that `make kernels` builds.

The library registers its kernels under the names and domains of ONNX Runtime's own ops, and ONNX Runtime then prefers
them. An engine's graph therefore runs in every ONNX Runtime, with or without the library.
"""

import ctypes
from dataclasses import dataclass
from pathlib import Path

LIBRARY = Path(__file__).parents[1] / "lib" / "libedgekiln_ops.so"


@dataclass(frozen=True)
class KernelLibrary:
    """A library of kernels that this machine can load.

    Attributes:
        library: the shared library.
        instruction_set: the instruction set that its kernels use on this processor, e.g. "avx512bf16".
    """

    library: Path
    instruction_set: str


def kernel_library() -> KernelLibrary | None:
    """The library installed with this package; None where it is not built or cannot be loaded."""
    if not LIBRARY.is_file():
        return None
    try:
        name = ctypes.CDLL(str(LIBRARY)).edgekiln_ops_instruction_set
    except (OSError, AttributeError):
        return None
    name.restype = ctypes.c_char_p
    return KernelLibrary(LIBRARY, name().decode())
