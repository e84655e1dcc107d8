"""The types of a lowering: which the table of `edgekiln.targets` refers to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import onnx_ir as ir
from onnx_ir.passes import PassError, Sequential

from edgekiln.calib.tensorrt.options import TensorRTOptions
from edgekiln.engine.graph_io import GraphIO
from edgekiln.engine.manifest import EngineManifest, KVCacheSpec, TensorRTBuild
from edgekiln.errors import EdgekilnError

PLAN_FILE: Final = "generate.plan"


@dataclass(frozen=True)
class LoweringOptions:
    """The build options that a lowering depends on.

    Attributes:
        target: name of the target, as several share a lowering.
        max_length: tokens of a sequence, at most.
        tensorrt: options of targets trt and trt-rtx.
    """

    target: str
    max_length: int
    tensorrt: TensorRTOptions = field(default_factory=TensorRTOptions)


@dataclass(frozen=True)
class ExtraGraph:
    """A graph of the engine beside `generate` and `score`.

    Attributes:
        file: its name in the engine directory.
        make: returns the graph.
    """

    file: str
    make: Callable[[], ir.Model]


def _nothing_to_check(_options: LoweringOptions) -> None:
    """The default of `Lowering.check`."""


def _no_notes(_model: ir.Model, _options: LoweringOptions) -> list[str]:
    """The default of `Lowering.notes`."""
    return []


@dataclass(frozen=True)
class Lowering:
    """How the canonical graph becomes the graphs of a target's engine.

    Attributes:
        lower: lowers a canonical graph in place. Raises UnsupportedModelError for a model that the target cannot run.
        kv_cache: the layout of the KV cache that a canonical graph will have when it is lowered.
        io: names of the lowered graph's inputs and outputs; `lower` may add `logits_to_keep`, see
            `edgekiln.export.passes.common.logits_to_keep.logits_to_keep_input`.
        sequence_length: the graphs may have the input `sequence_length`, see
            `edgekiln.export.passes.common.sequence_length`.
        extra_graphs: role in the manifest to graph.
        notes: what the build report says of how the target computes a canonical graph.
        check: raises EdgekilnError before any work is done if the engine cannot be built on this machine.
        compile: compiles the graph file `generate` to the file PLAN_FILE, given graph, manifest, output file and
            options; None for targets that load the ONNX graph.
    """

    lower: Callable[[ir.Model, LoweringOptions], None]
    kv_cache: Callable[[ir.Model, LoweringOptions], KVCacheSpec]
    io: GraphIO = field(default_factory=GraphIO)
    sequence_length: bool = False
    extra_graphs: Mapping[str, ExtraGraph] = field(default_factory=dict)
    notes: Callable[[ir.Model, LoweringOptions], list[str]] = _no_notes
    check: Callable[[LoweringOptions], None] = _nothing_to_check
    compile: Callable[[Path, EngineManifest, Path, LoweringOptions], TensorRTBuild] | None = None


def run_passes(model: ir.Model, passes: Sequential) -> None:
    """Run `passes` on `model`, in place.

    Raises:
        EdgekilnError: the error of a pass, which onnx_ir would wrap in its PassError.
    """
    try:
        passes(model)
    except PassError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, EdgekilnError):
            cause = cause.__cause__
        raise cause or error from None
