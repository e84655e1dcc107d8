"""Weights with one scale an output channel, in the layout that MatMul takes."""

import onnx_ir as ir

from edgekiln.export.passes.common.tensors import new_initializer, shape_of, values_of


def transposed_codes(graph: ir.Graph, qweight: ir.Value) -> ir.Value:
    """The int8 codes [N, K] of a per-channel weight as [K, N]."""
    n, k = shape_of(qweight)
    return new_initializer(graph, f"{qweight.name}.transposed", (k, n), ir.DataType.INT8, lambda: values_of(qweight).T)
