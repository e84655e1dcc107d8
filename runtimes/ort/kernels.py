"""edgekiln's kernels for ONNX Runtime: a custom-op library that wheels contain and `make kernels` builds.

The library registers its kernels under the names and domains of ONNX Runtime's own ops, and ONNX Runtime then prefers
them. An engine's graph therefore runs in every ONNX Runtime, with or without the library.

Counterpart of cpp/src/runtime/ort/kernels.cpp.
"""

import ctypes
import json
import os
from dataclasses import dataclass
from pathlib import Path

from edgekiln.errors import RequestError

LIBRARY = Path(__file__).parents[1] / "lib" / "libedgekiln_ops.so"
ONNX_RUNTIME = "onnxruntime"  # the name of ONNX Runtime's own kernels, also in EDGEKILN_ISA
# The environment variable that names the instruction set to use; the library reads it once per process.
ISA_VARIABLE = "EDGEKILN_ISA"


@dataclass(frozen=True)
class OpKernels:
    """An op that the library implements.

    Attributes:
        name: domain and name, as "com.microsoft.MatMulNBits"; ops with a kernel for each type of KV cache are listed
            once for each.
        kernels: the kernels that it calls, fields of `KernelTable` in cpp/kernels/kernel_table.h; none for Cos and Sin.
        registered: the instruction set has them all; otherwise ONNX Runtime runs the op.
    """

    name: str
    kernels: tuple[str, ...]
    registered: bool


@dataclass(frozen=True)
class KernelLibrary:
    """A library of kernels that this machine can load.

    Attributes:
        library: the shared library.
        instruction_set: the instruction set that its kernels use on this processor, e.g. "avx512bf16"; "onnxruntime"
            with EDGEKILN_ISA=onnxruntime.
        supported: the instruction sets that it has for this processor, fastest first.
        ops: all ops that it implements.
    """

    library: Path
    instruction_set: str
    supported: tuple[str, ...] = ()
    ops: tuple[OpKernels, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether no op is left to ONNX Runtime."""
        return all(op.registered for op in self.ops)


def installed_library() -> KernelLibrary | None:
    """The library installed with this package; None where it is not built or cannot be loaded.

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
    description = json.loads(functions.edgekiln_ops_description())
    return KernelLibrary(
        library=LIBRARY,
        instruction_set=functions.edgekiln_ops_instruction_set().decode(),
        supported=tuple(description["supported"]),
        ops=tuple(
            OpKernels(f"{op['domain']}.{op['op']}", tuple(op["kernels"]), op["registered"]) for op in description["ops"]
        ),
    )


def kernel_library() -> KernelLibrary | None:
    """`installed_library`, None with EDGEKILN_ISA=onnxruntime."""
    library = installed_library()
    return None if library is None or library.instruction_set == ONNX_RUNTIME else library


def in_checkout() -> bool:
    """Whether this package is imported from a source tree, whose library `make kernels` builds."""
    return (LIBRARY.parents[2] / "pyproject.toml").is_file()


def how_to_install() -> str:
    """What a user without the kernels does to get them."""
    if in_checkout():
        return "make kernels"
    return "install a wheel of edgekiln for this processor, or reinstall it where GCC 12 or later is installed"


def _load() -> ctypes.CDLL | None:
    if not LIBRARY.is_file():
        return None
    try:
        functions = ctypes.CDLL(str(LIBRARY))
        for name in ("edgekiln_ops_instruction_set", "edgekiln_ops_error", "edgekiln_ops_description"):
            getattr(functions, name).restype = ctypes.c_char_p
    except (OSError, AttributeError):
        return None
    return functions
