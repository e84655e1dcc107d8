"""Instruction sets of edgekiln's kernels: which to test, and a library that uses one of them in this process."""

import shutil
from pathlib import Path

import pytest

from edgekiln.runtimes.ort import kernels
from edgekiln.runtimes.ort.kernels import ISA_VARIABLE, installed_library, kernel_library

# Beside the fastest, those that tests run without "slow".
_FAST = ("avx2", "neon_dotprod", "portable")


def supported_sets() -> list[object]:
    """Parameters of a test: the supported instruction sets, fastest first; those between are slow tests."""
    library = installed_library()
    names = library.supported if library else ()
    return [
        pytest.param(name, marks=() if index == 0 or name in _FAST else pytest.mark.slow)
        for index, name in enumerate(names)
    ]


def use(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let sessions of a test use an instruction set.

    A loaded library chooses once, so each set gets a copy of the file in `folder`, which chooses for itself.
    """
    copy = folder / f"libedgekiln_ops-{name}.so"
    if not copy.exists():
        part = copy.with_suffix(".part")
        shutil.copyfile(kernels.LIBRARY, part)
        part.rename(copy)
    monkeypatch.setenv(ISA_VARIABLE, name)
    monkeypatch.setattr(kernels, "LIBRARY", copy)


def fills(kernel: str) -> bool:
    """Whether the kernel table in use has a kernel, a field of `KernelTable`, that an op calls."""
    library = kernel_library()
    return library is not None and any(op.registered and kernel in op.kernels for op in library.ops)
