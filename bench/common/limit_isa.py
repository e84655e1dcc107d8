"""Run ONNX Runtime as on a processor without AVX-512: for comparing engines at an instruction set.

ONNX Runtime chooses its kernels by the instruction cpuid, which a process cannot have answered differently without
privileges. So a copy of the package is made in which each cpuid of its libraries is replaced by ud2, an instruction
that raises SIGILL, and a preloaded library (limit_cpuid.c) answers the signal with what cpuid says, less the features
above the instruction set. edgekiln's own kernels are limited by EDGEKILN_ISA, llama.cpp when it is compiled.

Needs a C compiler and objdump.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

INSTRUCTION_SETS = ("portable", "avx2", "avxvnni", "avx512vnni")
CPUID, UD2 = b"\x0f\xa2", b"\x0f\x0b"
_SOURCE = Path(__file__).with_name("limit_cpuid.c")


def limited(isa: str, folder: Path) -> dict[str, str]:
    """Environment variables for a Python process whose ONNX Runtime and edgekiln kernels stay within `isa`.

    Args:
        isa: one of INSTRUCTION_SETS.
        folder: where the patched copy of the installed onnxruntime is made, once; 100 MB.
    """
    folder = folder.absolute()
    preload = folder / "limit_cpuid.so"
    if not preload.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _copy_without_cpuid(folder / "onnxruntime")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", preload, _SOURCE], check=True)
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path), "LD_PRELOAD": str(preload), "LIMIT_CPUID": isa, "EDGEKILN_ISA": isa}


def _copy_without_cpuid(to: Path) -> None:
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise SystemExit("onnxruntime is not installed")
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(Path(spec.origin).parent, to, ignore=shutil.ignore_patterns("__pycache__", "tools", "transformers"))
    for library in (to / "capi").glob("*.so*"):
        replace_cpuid(library)


def replace_cpuid(library: Path) -> None:
    """Replace each cpuid instruction of a shared library by ud2."""
    content = bytearray(library.read_bytes())
    for offset in _cpuid_offsets(library):
        if content[offset : offset + 2] != CPUID:
            raise SystemExit(f"{library} has no cpuid at {offset:#x}")
        content[offset : offset + 2] = UD2
    library.write_bytes(content)


def _cpuid_offsets(library: Path) -> Iterator[int]:
    """Offsets in the file of all cpuid instructions."""
    headers = subprocess.run(["objdump", "-h", library], capture_output=True, text=True, check=True).stdout
    # Columns: index, name, size, virtual address, load address, offset in the file, alignment.
    sections = [
        (int(address, 16), int(size, 16), int(offset, 16))
        for size, address, offset in re.findall(
            r"^ *\d+ +\S+ +([0-9a-f]+) +([0-9a-f]+) +[0-9a-f]+ +([0-9a-f]+) ", headers, re.MULTILINE
        )
    ]
    command = ["objdump", "-d", "--no-show-raw-insn", library]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\tcpuid\n"):
                found = int(line.split(":")[0], 16)
                start, _, offset = next(row for row in sections if row[0] <= found < row[0] + row[1])
                yield found - start + offset
    if process.returncode:
        raise SystemExit(f"objdump cannot disassemble {library}")
