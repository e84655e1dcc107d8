"""What this machine has that engines are built with and run on, and which targets that is enough for."""

import ctypes
import importlib
import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from edgekiln.runtimes.ort.kernels import native_kernels

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
# As Linux names them; what kernels for matrix products ask for.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve")
# Compute capabilities that TensorRT-RTX documents as its targets.
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_CUDA_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A CUDA device; `compute_capability` as in 8.9."""

    name: str
    compute_capability: str
    memory_mb: float


@dataclass(frozen=True)
class Machine:
    """What was found.

    Attributes:
        packages: distribution -> version, of those that are installed.
        providers: of the ONNX Runtime that is imported.
        modules: module -> why it cannot be imported, "" where it can.
        cuda_driver: the CUDA version that the driver takes, None without a driver.
        native: the instruction set of edgekiln's own kernels, None where they are not built.
    """

    system: str = ""
    python: str = ""
    processor: str = ""
    cores: int = 1
    memory_mb: float = 0.0
    instruction_sets: tuple[str, ...] = ()
    native: str | None = None
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
    """Whether engines of a target can be built and run here, and what is in the way, a sentence each.

    Attributes:
        running: what is in the way of running.
        missing: what is in the way of either.
    """

    builds: bool
    runs: bool
    running: tuple[str, ...]
    missing: tuple[str, ...]


def look() -> Machine:
    """Look at this machine."""
    driver, gpus = cuda_devices(_load_cuda)
    kernels = native_kernels()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        processor=_processor(),
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        memory_mb=round(psutil.virtual_memory().total / 1e6),
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in _processor_flags()),
        native=kernels.instruction_set if kernels else None,
        packages={name: version for name in PACKAGES if (version := _version(name))},
        providers=_providers(),
        modules={name: _import_failure(name) for name in ("onnxruntime", "torch", "tensorrt", "tensorrt_rtx", "cuda")},
        cuda_driver=driver,
        gpus=gpus,
    )


def target_states(machine: Machine) -> dict[str, TargetState]:
    """What the targets need of a machine."""
    export = [] if machine.has("torch") else ["building needs torch: pip install 'edgekiln[export]'"]
    gpu = _gpu_missing(machine)
    cpu = (
        [] if "CPUExecutionProvider" in machine.providers else ["ONNX Runtime is missing: pip install 'edgekiln[cpu]'"]
    )
    cuda = list(gpu)
    if "CUDAExecutionProvider" not in machine.providers:
        other = "pip uninstall onnxruntime; " if "onnxruntime" in machine.packages else ""
        cuda.append(f"ONNX Runtime as installed has no CUDA: {other}pip install 'edgekiln[gpu]'")
    states = {"ort-cpu": _state(export, cpu), "ort-cuda": _state(export, cuda)}
    for target, module, extra in (("trt", "tensorrt", "trt"), ("trt-rtx", "tensorrt_rtx", "trt-rtx")):
        library = []
        if not machine.has(module):
            why = machine.modules.get(module) or "it is not installed"
            library.append(f"{module} cannot be imported ({why}): pip install 'edgekiln[{extra}]'")
        running = [*library, *gpu]
        if machine.gpus and not machine.has("cuda"):
            running.append("running needs cuda-python: pip install cuda-bindings")
        capabilities = {device.compute_capability for device in machine.gpus}
        if target == "trt-rtx" and capabilities and not capabilities & set(RTX_CAPABILITIES):
            running.append(
                f"compute capability {', '.join(sorted(capabilities))} is none of TensorRT-RTX's targets "
                f"{', '.join(RTX_CAPABILITIES)}: use --target trt or ort-cuda"
            )
        # TensorRT times kernels on the GPU it builds for; TensorRT-RTX chooses them later, on the user's machine.
        building = [*export, *library, *(gpu if target == "trt" else [])]
        states[target] = _state(building, running)
    return states


def cuda_devices(load: Callable[[], Any]) -> tuple[str | None, tuple[Gpu, ...]]:
    """The driver's CUDA version and its devices, asked of the driver library itself.

    Args:
        load: gives the driver library, or raises OSError where there is none.
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


def _gpu_missing(machine: Machine) -> list[str]:
    if machine.cuda_driver is None:
        return ["an NVIDIA GPU and its driver are needed: the driver library libcuda is not there"]
    if not machine.gpus:
        return [f"the NVIDIA driver (CUDA {machine.cuda_driver}) shows no GPU: check nvidia-smi"]
    return []


def _state(building: list[str], running: list[str]) -> TargetState:
    return TargetState(not building, not running, tuple(running), tuple(dict.fromkeys([*building, *running])))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _providers() -> tuple[str, ...]:
    try:
        import onnxruntime
    except ImportError:
        return ()
    return tuple(onnxruntime.get_available_providers())


def _import_failure(module: str) -> str:
    """Why a module cannot be imported, "" where it can. A package may be there and its libraries not."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        return "it is not installed"
    except Exception as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
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
