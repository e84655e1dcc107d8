"""edgekiln's kernels for ONNX Runtime: a custom-op library that `make kernels` builds.

The library registers its kernels under the names and domains of ONNX Runtime's own ops, and ONNX Runtime then prefers
them. An engine's graph therefore runs in every ONNX Runtime, with or without the library.

Counterpart of cpp/src/runtime/ort/kernels.cpp.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from edgekiln.errors import RequestError

LIBRARY = Path(__file__).parents[1] / "lib" / "libedgekiln_ops.so"
ONNX_RUNTIME = "onnxruntime"  # the name of ONNX Runtime's own kernels, also in EDGEKILN_ISA
# The environment variable that names the instruction set to use; the library reads it once per process.
ISA_VARIABLE = "EDGEKILN_ISA"


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
    """The library installed with this package.

    None where it is not built or cannot be loaded, and with EDGEKILN_ISA=onnxruntime.

    Raises:
        RequestError: EDGEKILN_ISA names an instruction set that the processor or the library does not support.
    """
    functions = _load()
    if functions is None:
        chosen = os.environ.get(ISA_VARIABLE, "")
        if chosen not in ("", ONNX_RUNTIME):
            raise RequestError(f"{ISA_VARIABLE} must be onnxruntime or unset without edgekiln's kernels, got {chosen}")
        return None
    if error := functions.edgekiln_ops_error():
        raise RequestError(error.decode(errors="replace"))
    name = functions.edgekiln_ops_instruction_set().decode()
    return None if name == ONNX_RUNTIME else KernelLibrary(LIBRARY, name)


def _load() -> ctypes.CDLL | None:
    if not LIBRARY.is_file():
        return None
    try:
        functions = ctypes.CDLL(str(LIBRARY))
        for name in ("edgekiln_ops_instruction_set", "edgekiln_ops_error"):
            getattr(functions, name).restype = ctypes.c_char_p
    except (OSError, AttributeError):
        return None
    return functions
