"""edgekiln's own ONNX Runtime kernels, where `make native` has built them.

The library registers kernels under the names of ONNX Runtime's own, which it then prefers: an engine's graph stays one
that every ONNX Runtime runs, and a session made without the library computes the same.
"""

import ctypes
from dataclasses import dataclass
from pathlib import Path

LIBRARY = Path(__file__).parents[1] / "lib" / "libedgekiln_ops.so"


@dataclass(frozen=True)
class KernelLibrary:
    """A built library; `instruction_set` names the one its kernels use on this processor."""

    library: Path
    instruction_set: str


def kernel_library() -> KernelLibrary | None:
    """The library beside this package; None where it is not built or the system cannot load it."""
    if not LIBRARY.is_file():
        return None
    try:
        name = ctypes.CDLL(str(LIBRARY)).edgekiln_ops_instruction_set
    except (OSError, AttributeError):
        return None
    name.restype = ctypes.c_char_p
    return KernelLibrary(LIBRARY, name().decode())
