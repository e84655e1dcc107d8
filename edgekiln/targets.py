"""The table of targets: one row per target, with everything that other modules need to know about it.

`edgekiln engine --target`, `edgekiln doctor`, `edgekiln.runtimes.open` and the Triton export read this table. It
imports nothing heavy: a lowering and an adapter are named as "module:attribute" and imported when they are used.

To add a target, add a row here, a lowering in `export/lower` and an adapter in `runtimes`.
"""

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from edgekiln.errors import EdgekilnError, RequestError

KVCacheType = Literal["float32", "float16", "bfloat16", "int8"]

# Compute capabilities that TensorRT-RTX's documentation lists as supported.
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@dataclass(frozen=True)
class Requirements:
    """What building or running an engine needs, beside edgekiln's base packages (and torch, for building).

    Attributes:
        library: Python module of the library that compiles or runs the engine.
        provider: execution provider of ONNX Runtime.
        cuda_bindings: whether the module `cuda` (pip package cuda-bindings) is needed.
        gpu: whether an NVIDIA GPU and its driver are needed.
        compute_capabilities: those that the library supports, as "8.9"; empty where it supports all.
    """

    library: str | None = None
    provider: str | None = None
    cuda_bindings: bool = False
    gpu: bool = False
    compute_capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class TritonBackend:
    """The backend of Triton Inference Server that runs a target's engines.

    Attributes:
        name: of the backend.
        instance_kind: `kind` of the instance group in config.pbtxt.
        graph: role of the engine's graph that the backend loads.
    """

    name: str
    instance_kind: str
    graph: str


@dataclass(frozen=True)
class Target:
    """One runtime that engines are built for.

    Attributes:
        name: as `--target` and engine.json spell it.
        description: one phrase for `--help`.
        extra: of the pip package edgekiln, which installs the runtime.
        lowering: "module:attribute" of the `edgekiln.export.lower.base.Lowering`.
        adapter: "module:class" of the `edgekiln.runtimes.base.Runtime`.
        to_build: what building an engine needs.
        to_run: what running an engine needs.
        kv_cache_types: data types that the KV cache may have; the first is the default.
        tensorrt: whether a TensorRT library compiles the engine, with the options of `TensorRTOptions`.
        codebooks: whether layers take 4-bit codes of a codebook of integers; if not, such weights get 8-bit codes.
        triton: the backend of Triton Inference Server; None if no backend runs the engine.
    """

    name: str
    description: str
    extra: str
    lowering: str
    adapter: str
    to_build: Requirements
    to_run: Requirements
    kv_cache_types: tuple[KVCacheType, ...]
    tensorrt: bool = False
    codebooks: bool = False
    triton: TritonBackend | None = None

    def load_lowering(self) -> Any:
        """Import the target's lowering; needs the extra `export`."""
        return _load(self.lowering)

    def load_adapter(self) -> Any:
        """Import the target's adapter class.

        Raises:
            EdgekilnError: the library that runs the target is not installed.
        """
        try:
            return _load(self.adapter)
        except ImportError as error:
            raise EdgekilnError(
                f"target {self.name} needs the module {error.name}: pip install 'edgekiln[{self.extra}]'"
            ) from error


_ROWS = (
    Target(
        name="ort-cpu",
        description="ONNX Runtime on the CPU",
        extra="cpu",
        lowering="edgekiln.export.lower.ort_cpu:LOWERING",
        adapter="edgekiln.runtimes.ort.cpu:OrtCpuRuntime",
        to_build=Requirements(),
        to_run=Requirements(provider="CPUExecutionProvider"),
        kv_cache_types=("float32", "int8"),
        codebooks=True,
        triton=TritonBackend("onnxruntime", "KIND_CPU", "generate"),
    ),
    Target(
        name="ort-cuda",
        description="ONNX Runtime on an NVIDIA GPU",
        extra="gpu",
        lowering="edgekiln.export.lower.ort_cuda:LOWERING",
        adapter="edgekiln.runtimes.ort.cuda:OrtCudaRuntime",
        to_build=Requirements(),
        to_run=Requirements(provider="CUDAExecutionProvider", gpu=True),
        kv_cache_types=("float16",),
        triton=TritonBackend("onnxruntime", "KIND_GPU", "generate"),
    ),
    # TensorRT times kernels on the GPU that it builds for; TensorRT-RTX chooses them later, on the user's machine.
    Target(
        name="trt",
        description="TensorRT, compiled for the GPU of this machine",
        extra="trt",
        lowering="edgekiln.export.lower.tensorrt:LOWERING",
        adapter="edgekiln.runtimes.tensorrt.runtime:TensorRTRuntime",
        to_build=Requirements(library="tensorrt", gpu=True),
        to_run=Requirements(library="tensorrt", gpu=True, cuda_bindings=True),
        kv_cache_types=("float16", "bfloat16"),
        tensorrt=True,
        triton=TritonBackend("tensorrt", "KIND_GPU", "plan"),
    ),
    Target(
        name="trt-rtx",
        description="TensorRT-RTX, for consumer GPUs",
        extra="trt-rtx",
        lowering="edgekiln.export.lower.tensorrt:LOWERING",
        adapter="edgekiln.runtimes.tensorrt.runtime:TensorRTRuntime",
        to_build=Requirements(library="tensorrt_rtx"),
        to_run=Requirements(
            library="tensorrt_rtx", gpu=True, cuda_bindings=True, compute_capabilities=RTX_CAPABILITIES
        ),
        kv_cache_types=("float16", "bfloat16"),
        tensorrt=True,
    ),
)
TARGETS = {row.name: row for row in _ROWS}
DEFAULT_TARGET = "ort-cpu"


def find_target(name: str) -> Target:
    """The row of the target `name`.

    Raises:
        RequestError: there is no such target.
    """
    if not isinstance(name, str) or name not in TARGETS:
        raise RequestError(f"target must be one of {', '.join(TARGETS)}, got {name}")
    return TARGETS[name]


def _load(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)
