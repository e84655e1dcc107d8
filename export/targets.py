"""Targets as data: how a graph is lowered for each, and what of the engine directory follows from that."""

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir

from edgekiln.bundle import GraphIO, KeyValueLayout
from edgekiln.export.lower import ort_cpu, ort_cuda


@dataclass(frozen=True)
class TargetData:
    """What a target needs of a build.

    Attributes:
        lower: lowers a canonical graph in place, for that many positions.
        kv: the cache layout that the graph then has.
        io: the names of its inputs and outputs.
        extra_graphs: role -> file name and what makes the graph, beside `generate` and `score`.
    """

    lower: Callable[[ir.Model, int], None]
    kv: KeyValueLayout
    io: GraphIO = field(default_factory=GraphIO)
    extra_graphs: dict[str, tuple[str, Callable[[], ir.Model]]] = field(default_factory=dict)


TARGETS = {
    "ort-cpu": TargetData(ort_cpu.lower, KeyValueLayout(kind=ort_cpu.KEY_VALUE_KIND, dtype="float32")),
    "ort-cuda": TargetData(
        ort_cuda.lower,
        KeyValueLayout(kind=ort_cuda.KEY_VALUE_KIND, dtype=ort_cuda.KEY_VALUE_TYPE),
        GraphIO(total_length=ort_cuda.TOTAL_LENGTH),
        {"grow": ("grow.onnx", ort_cuda.growth_graph)},
    ),
}
