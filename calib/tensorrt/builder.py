"""Compile a lowered ONNX graph into a TensorRT plan, through polygraphy. TensorRT-RTX needs no GPU for this.

The network is strongly typed: tensors have the types of the graph. The graph is parsed by the library's own parser,
because polygraphy's loader prints the reason why a graph is rejected instead of raising it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekiln.calib.tensorrt.checks import check_network, check_size
from edgekiln.calib.tensorrt.options import TensorRTOptions
from edgekiln.calib.tensorrt.quiet_polygraphy import require_polygraphy
from edgekiln.engine.manifest import EngineManifest, TensorRTBuild
from edgekiln.errors import EdgekilnError, RequestError, UnsupportedModelError, first_line
from edgekiln.runtimes.tensorrt.library import TensorRTLibrary, load_library

# Major release of TensorRT from which all networks are strongly typed.
_ALWAYS_TYPED = 11


@dataclass(frozen=True)
class Range:
    """Minimum, optimum and maximum of a dimension in an optimization profile."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class ProfileShape:
    """Sizes that an optimization profile covers.

    Attributes:
        batch: number of sequences.
        tokens: new tokens of each sequence.
        past: tokens of each sequence in the KV cache.
    """

    batch: Range
    tokens: Range
    past: Range


def profile_shapes(options: TensorRTOptions, max_length: int) -> tuple[ProfileShape, ProfileShape]:
    """The two profiles of a plan: prefill of one sequence in chunks, and decode of one token of each sequence."""
    chunk = min(options.chunk, max_length)
    past = Range(0, min(max_length // 2, 1024), max_length - 1)
    one = Range(1, 1, 1)
    prefill = ProfileShape(one, Range(1, chunk, chunk), past)
    return prefill, ProfileShape(Range(1, 1, options.max_batch), one, past)


def build_plan(
    graph: Path,
    target: str,
    options: TensorRTOptions,
    manifest: EngineManifest,
    plan: Path,
) -> TensorRTBuild:
    """Compile an ONNX graph to a plan file.

    Args:
        graph: ONNX file, lowered by `edgekiln.export.lower.tensorrt`, with its external data in the same directory.
        target: trt or trt-rtx.
        options: of the build.
        manifest: has the names of the graph's inputs and the context length.
        plan: file to write.

    Raises:
        EdgekilnError: the library or polygraphy is missing or fails, or a GPU is needed and there is none.
        RequestError: the library does not compile for a compute capability.
        UnsupportedModelError: the parser rejects an op, or the plan holds a quantized layer unquantized.
    """
    library = require_compiler(target, options)
    module = library.module
    library.errors.clear()
    builder = _builder(library, target)
    network = builder.create_network(network_flags(module, library.version))
    parser = module.OnnxParser(network, library.log)
    if not parser.parse_from_file(str(graph)):
        raise UnsupportedModelError(_parse_error(parser, library))
    weights = check_network(graph, network, module)
    config = _config(options, library, _profiles(network, options, manifest))
    from polygraphy.backend.trt import EngineBytesFromNetwork

    try:
        data = EngineBytesFromNetwork(
            (builder, network, parser), config=config, save_timing_cache=_text(options.timing_cache)
        )()
    except Exception as error:
        raise EdgekilnError(_build_error(library, error)) from error
    if not options.strip_weights:
        check_size(memoryview(data).nbytes, weights)
    plan.write_bytes(data)
    return TensorRTBuild(
        library=library.name,  # type: ignore[arg-type]
        version=library.version,
        compute_capabilities=_compiled_for(target, options),
        max_batch=options.max_batch,
        prefill_chunk=min(options.chunk, manifest.architecture.max_length),
        weight_stripped=options.strip_weights,
        options=_named(options),
    )


def require_compiler(target: str, options: TensorRTOptions) -> TensorRTLibrary:
    """Load the library that compiles for `target` and check that it supports `options`, before a long build.

    Raises:
        EdgekilnError: the library or polygraphy is missing, or a GPU is needed and there is none.
        RequestError: the library does not compile for a compute capability.
    """
    library = compiler(target)
    if options.refit or options.strip_weights:
        _check_gpu(target)
    if target == "trt-rtx":
        _check_capabilities(options, library)
    return library


def compiler(target: str) -> TensorRTLibrary:
    """Load the library that compiles for `target` and set polygraphy to use it.

    Raises:
        EdgekilnError: one of them is not installed, or this process has already compiled with the other library.
    """
    library = load_library(target)
    require_polygraphy(f"target {target}", f"pip install 'edgekiln[{target}]'")
    import polygraphy.config

    wanted = library.name == "tensorrt_rtx"
    if "polygraphy.backend.trt" in sys.modules and wanted != polygraphy.config.USE_TENSORRT_RTX:
        raise EdgekilnError(f"this process has compiled with another library: build for {target} in a new one")
    polygraphy.config.USE_TENSORRT_RTX = wanted
    return library


def _check_gpu(target: str) -> None:
    """Check for a GPU, which even TensorRT-RTX needs to compile plans whose weights can be replaced."""
    from edgekiln.runtimes.cuda.cuda_device import open_device

    try:
        open_device(extra=target)
    except EdgekilnError as error:
        raise EdgekilnError(f"--refit and --strip-weights compile on a GPU only ({error}): leave them out") from error


def _check_capabilities(options: TensorRTOptions, library: TensorRTLibrary) -> None:
    known = {name for name in dir(library.module.ComputeCapability) if name.startswith("SM")}
    for major, minor in options.chosen_capabilities:
        if f"SM{major}{minor}" not in known:
            able = ", ".join(sorted((name[2:] for name in known), key=int))
            raise RequestError(
                f"{library.name} {library.version} does not compile for compute capability {major}.{minor}: "
                f"--sm takes {able}"
            )


def network_flags(module: Any, version: str) -> int:
    """Flags that make a network strongly typed; from release 11 on all networks are, and there is no flag."""
    strongly_typed = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if strongly_typed is None or int(version.split(".", maxsplit=1)[0]) >= _ALWAYS_TYPED:
        return 0
    return 1 << int(strongly_typed)


def _builder(library: TensorRTLibrary, target: str) -> Any:
    """Create the builder, which fails for TensorRT where there is no GPU."""
    builder = cause = None
    try:
        builder = library.module.Builder(library.log)
    except Exception as error:
        cause = error
    if builder is None:
        reason = first_line(cause) if cause else library.last_errors()
        fix = "run it where a GPU is, or use --target trt-rtx, which builds without one"
        if target != "trt":
            fix = "install the package again"
        raise EdgekilnError(f"{library.name} cannot build here ({reason}): {fix}") from cause
    return builder


def _profiles(network: Any, options: TensorRTOptions, manifest: EngineManifest) -> list[Any]:
    """Polygraphy profiles with the `profile_shapes` of the inputs of `network`."""
    from polygraphy.backend.trt import Profile

    io, capacity = manifest.io, manifest.architecture.max_length
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    profiles = []
    for shape in profile_shapes(options, capacity):
        profile = Profile()
        for tensor in inputs:
            new = tensor.name in (io.input_ids, io.position_ids)
            dynamic = {0: shape.batch, 1: shape.tokens} if new else {0: shape.batch, 2: shape.past}
            sizes = [dynamic[axis] if size == -1 else Range(size, size, size) for axis, size in enumerate(tensor.shape)]
            profile.add(tensor.name, *([getattr(size, which) for size in sizes] for which in ("min", "opt", "max")))
        profiles.append(profile)
    return profiles


def _config(options: TensorRTOptions, library: TensorRTLibrary, profiles: list[Any]) -> Any:
    """Polygraphy's builder configuration."""
    module = library.module
    given: dict[str, Any] = {
        "profiles": profiles,
        "profiling_verbosity": module.ProfilingVerbosity.DETAILED,
        "refittable": options.refit or options.strip_weights,
        "strip_plan": options.strip_weights,
    }
    if options.workspace_mb is not None:
        given["memory_pool_limits"] = {module.MemoryPoolType.WORKSPACE: options.workspace_mb * 10**6}
    if library.name == "tensorrt_rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        return CreateConfigRTX(compute_capabilities=list(options.chosen_capabilities), **given)
    from polygraphy.backend.trt import CreateConfig

    if options.hardware_compatible:
        given["hardware_compatibility_level"] = module.HardwareCompatibilityLevel.AMPERE_PLUS
    return CreateConfig(
        version_compatible=options.version_compatible, load_timing_cache=_text(options.timing_cache), **given
    )


def _compiled_for(target: str, options: TensorRTOptions) -> list[str]:
    if target == "trt-rtx":
        return [f"{major}.{minor}" for major, minor in options.chosen_capabilities]
    from edgekiln.runtimes.cuda.cuda_device import open_device

    return [open_device(extra=target).compute_capability]


def _named(options: TensorRTOptions) -> list[str]:
    flags = ("version_compatible", "hardware_compatible", "strip_weights", "refit")
    return [flag.replace("_", "-") for flag in flags if getattr(options, flag)]


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _parse_error(parser: Any, library: TensorRTLibrary) -> str:
    if not parser.num_errors:
        return f"{library.name}'s parser rejects the graph ({library.last_errors()}): use --target ort-cuda"
    error = parser.get_error(0)
    name = f" at {error.node_operator()} {error.node_name()}".rstrip() if error.node_operator() else ""
    reason = first_line(Exception(error.desc()))
    return f"{library.name}'s parser rejects the graph{name} ({reason}): use --target ort-cuda"


def _build_error(library: TensorRTLibrary, error: Exception) -> str:
    reason = library.last_errors() if library.errors else first_line(error)
    if "memory" in reason.lower():
        return f"{library.name} ran out of memory while building ({reason}): lower --max-length, --chunk or --max-batch"
    return f"{library.name} cannot build the engine ({reason})"
