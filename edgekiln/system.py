"""Detect the processor, GPUs and libraries of this machine, and which targets can be built and run with them."""

import ctypes
import importlib
import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from edgekiln.errors import first_line
from edgekiln.runtimes.ort.kernels import OpKernels, installed_library
from edgekiln.runtimes.processor_cores import physical_cores
from edgekiln.runtimes.threads import available_processors, cpu_quota, default_threads
from edgekiln.targets import TARGETS, Requirements, Target

# Distributions whose versions are reported.
PACKAGES = (
    "edgekiln",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt_rtx",
    "cuda-bindings",
    "polygraphy",
    "torch",
    "transformers",
    "onnx",
    "llmcompressor",
)
# Instruction sets for matrix multiplication, as /proc/cpuinfo names them.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve")
_CUDA_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
# CUdevice_attribute values of cuda.h.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A CUDA device.

    Attributes:
        name: as the driver reports it.
        compute_capability: as "8.9".
        memory_mb: total memory in MB (10^6 bytes).
    """

    name: str
    compute_capability: str
    memory_mb: float


@dataclass(frozen=True)
class Machine:
    """Hardware and libraries of a machine.

    Attributes:
        system: operating system, release and architecture.
        python: version of Python.
        processor: name of the CPU.
        cores: physical cores.
        efficiency_cores: those of `cores` that are slower than the others; see `edgekiln.runtimes.processor_cores`.
        processors: logical processors that this process may run on.
        cpu_quota: processors that its cgroups may use together; None without a limit.
        default_threads: compute threads of an engine where none are asked for.
        memory_mb: main memory in MB (10^6 bytes).
        instruction_sets: those of `INSTRUCTION_SETS` that the CPU has.
        kernels: instruction set that edgekiln's kernels use; None if they are not installed, "onnxruntime" where
            EDGEKILN_ISA turns them off.
        kernel_instruction_sets: those that the installed kernels have for this processor, fastest first.
        ops: the ops that edgekiln's kernels implement, and the kernels that each calls.
        packages: distribution -> version of the installed `PACKAGES`.
        providers: execution providers of the installed ONNX Runtime.
        modules: module -> why it cannot be imported, "" if it can.
        cuda_driver: newest CUDA version that the driver supports; None without a driver.
        gpus: CUDA devices.
    """

    system: str = ""
    python: str = ""
    processor: str = ""
    cores: int = 1
    efficiency_cores: int = 0
    processors: int = 1
    cpu_quota: float | None = None
    default_threads: int = 1
    memory_mb: float = 0.0
    instruction_sets: tuple[str, ...] = ()
    kernels: str | None = None
    kernel_instruction_sets: tuple[str, ...] = ()
    ops: tuple[OpKernels, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)
    providers: tuple[str, ...] = ()
    modules: dict[str, str] = field(default_factory=dict)
    cuda_driver: str | None = None
    gpus: tuple[Gpu, ...] = ()

    def has(self, module: str) -> bool:
        """Whether `module` can be imported."""
        return self.modules.get(module) == ""


@dataclass(frozen=True)
class TargetState:
    """Whether engines of a target can be built and run on a machine.

    Attributes:
        builds: engines can be built.
        runs: engines can be run.
        running: what is missing to run engines, one sentence each.
        missing: what is missing to build or to run engines, one sentence each.
    """

    builds: bool
    runs: bool
    running: tuple[str, ...]
    missing: tuple[str, ...]


def detect() -> Machine:
    """Detect the hardware and libraries of this machine."""
    driver, gpus = cuda_devices(_load_cuda)
    kernels = installed_library()
    cores = physical_cores()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        processor=_processor(),
        cores=cores.total or available_processors(),
        efficiency_cores=cores.efficiency,
        processors=available_processors(),
        cpu_quota=cpu_quota(),
        default_threads=default_threads(),
        memory_mb=round(psutil.virtual_memory().total / 1e6),
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in _processor_flags()),
        kernels=kernels.instruction_set if kernels else None,
        kernel_instruction_sets=kernels.supported if kernels else (),
        ops=kernels.ops if kernels else (),
        packages={name: version for name in PACKAGES if (version := _version(name))},
        providers=_providers(),
        modules={name: _import_failure(name) for name in ("onnxruntime", "torch", *_libraries(), "cuda")},
        cuda_driver=driver,
        gpus=gpus,
    )


def target_states(machine: Machine) -> dict[str, TargetState]:
    """Compare the requirements of each target with a machine; the result is by target name."""
    export = [] if machine.has("torch") else ["building needs torch: pip install 'edgekiln[export]'"]
    return {
        target.name: _state(
            [*export, *_missing(target, target.to_build, machine)], _missing(target, target.to_run, machine)
        )
        for target in TARGETS.values()
    }


def _missing(target: Target, needs: Requirements, machine: Machine) -> list[str]:
    """The requirements that a machine does not meet, one sentence each."""
    missing = []
    if needs.library is not None and not machine.has(needs.library):
        why = machine.modules.get(needs.library) or "it is not installed"
        missing.append(f"{needs.library} cannot be imported ({why}): pip install 'edgekiln[{target.extra}]'")
    if needs.gpu and machine.cuda_driver is None:
        missing.append("an NVIDIA GPU and its driver are needed: the driver library libcuda is not there")
    elif needs.gpu and not machine.gpus:
        missing.append(f"the NVIDIA driver (CUDA {machine.cuda_driver}) shows no GPU: check nvidia-smi")
    if needs.provider is not None and not machine.providers:
        missing.append(f"ONNX Runtime is missing: pip install 'edgekiln[{target.extra}]'")
    elif needs.provider is not None and needs.provider not in machine.providers:
        # Two distributions contain the module onnxruntime: the installed one has to go first.
        other = "pip uninstall onnxruntime; " if "onnxruntime" in machine.packages else ""
        provider = needs.provider.removesuffix("ExecutionProvider")
        missing.append(f"ONNX Runtime as installed has no {provider}: {other}pip install 'edgekiln[{target.extra}]'")
    if needs.cuda_bindings and machine.gpus and not machine.has("cuda"):
        missing.append("running needs cuda-python: pip install cuda-bindings")
    capabilities = {gpu.compute_capability for gpu in machine.gpus}
    if capabilities and needs.compute_capabilities and not capabilities & set(needs.compute_capabilities):
        missing.append(
            f"compute capability {', '.join(sorted(capabilities))} is none of those that {target.name} supports "
            f"({', '.join(needs.compute_capabilities)}): use --target {' or '.join(_gpu_targets())}"
        )
    return missing


def _gpu_targets() -> list[str]:
    """The targets that run on every NVIDIA GPU."""
    return [row.name for row in TARGETS.values() if row.to_run.gpu and not row.to_run.compute_capabilities]


def _libraries() -> list[str]:
    """The Python modules of the libraries that targets need."""
    return [row.to_run.library for row in TARGETS.values() if row.to_run.library is not None]


def cuda_devices(load: Callable[[], Any]) -> tuple[str | None, tuple[Gpu, ...]]:
    """Query the CUDA driver API for the driver's CUDA version and its devices.

    Args:
        load: returns the driver library, or raises OSError if there is none.

    Returns:
        The version, None without a driver, and the devices.
    """
    try:
        cuda = load()
    except OSError:
        return None, ()
    number = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None, ()
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(number)) != 0:
        return version, ()
    return version, tuple(_device(cuda, index) for index in range(number.value))


def _device(cuda: Any, index: int) -> Gpu:
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(handle), index)
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", round(memory.value / 1e6))


def _load_cuda() -> ctypes.CDLL:
    for name in _CUDA_LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError("no CUDA driver library")


def _state(building: list[str], running: list[str]) -> TargetState:
    return TargetState(not building, not running, tuple(running), tuple(dict.fromkeys([*building, *running])))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _providers() -> tuple[str, ...]:
    try:
        from edgekiln.runtimes.ort.library import onnxruntime
    except ImportError:
        return ()
    return tuple(onnxruntime.get_available_providers())


def _import_failure(module: str) -> str:
    """Why a module cannot be imported, "" if it can. An installed package can still lack its shared libraries."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        return "it is not installed"
    except Exception as error:
        return first_line(error)
    return ""


def _processor() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _processor_flags() -> set[str]:
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            return set(line.split(":", 1)[1].split())
    return set()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
