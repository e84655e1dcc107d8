"""Targets as data: how a graph is lowered for each, and what of the engine directory follows from that."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from edgekiln.engine.manifest import EngineManifest, GraphIO, KVCacheSpec, TensorRTBuild
from edgekiln.export.lower import ort_cpu, ort_cuda, tensorrt
from edgekiln.pipeline.options import BuildOptions

PLAN = "generate.plan"


@dataclass(frozen=True)
class TargetData:
    """What a target needs of a build.

    Attributes:
        lower: lowers a canonical graph in place, for that many positions.
        kv: the cache layout that the graph then has.
        io: the names of its inputs and outputs.
        extra_graphs: role -> file name and what makes the graph, beside `generate` and `score`.
        check: whether the engine can be made here as asked for, before anything is done for it; raises EdgekilnError.
        compile: makes the file PLAN of the graph `generate`, given that file, the manifest without the plan, and
            where the plan goes.
    """

    lower: Callable[[ir.Model, int], None]
    kv: KVCacheSpec
    io: GraphIO = field(default_factory=GraphIO)
    extra_graphs: dict[str, tuple[str, Callable[[], ir.Model]]] = field(default_factory=dict)
    check: Callable[[], object] = lambda: None
    compile: Callable[[Path, EngineManifest, Path], TensorRTBuild] | None = None


def _ort_cpu(_options: BuildOptions) -> TargetData:
    return TargetData(ort_cpu.lower, KVCacheSpec(layout=ort_cpu.KEY_VALUE_KIND, dtype="float32"))


def _ort_cuda(_options: BuildOptions) -> TargetData:
    return TargetData(
        ort_cuda.lower,
        KVCacheSpec(layout=ort_cuda.KEY_VALUE_KIND, dtype=ort_cuda.KEY_VALUE_TYPE),
        GraphIO(total_length=ort_cuda.TOTAL_LENGTH),
        {"grow": ("grow.onnx", ort_cuda.growth_graph)},
    )


def _tensorrt(options: BuildOptions) -> TargetData:
    chosen = options.tensorrt

    def lower(model: ir.Model, max_length: int) -> None:
        capacity = max_length if chosen.cache == "in-place" else None
        tensorrt.lower(model, tensorrt.TensorRTForm(capacity, chosen.dtype))

    def check() -> None:
        from edgekiln.calib.tensorrt.builder import able_library

        able_library(options.target, chosen)

    def compile_plan(graph: Path, manifest: EngineManifest, plan: Path) -> TensorRTBuild:
        from edgekiln.calib.tensorrt.builder import build_plan

        return build_plan(graph, options.target, chosen, manifest, plan)

    return TargetData(lower, KVCacheSpec(layout=chosen.cache, dtype=chosen.dtype), check=check, compile=compile_plan)


TARGETS: dict[str, Callable[[BuildOptions], TargetData]] = {
    "ort-cpu": _ort_cpu,
    "ort-cuda": _ort_cuda,
    "trt": _tensorrt,
    "trt-rtx": _tensorrt,
}
