"""Weights with one scale an output channel, in the layout that MatMul takes."""

import onnx_ir as ir

from edgekiln.export.passes.common.tensors import new_initializer, shape_of, values_of


def transposed_codes(graph: ir.Graph, qweight: ir.Value) -> ir.Value:
    """The int8 codes [..., N, K] of a per-channel weight as [..., K, N]."""
    *experts, n, k = shape_of(qweight)
    shape = (*experts, k, n)
    name = f"{qweight.name}.transposed"
    return new_initializer(graph, name, shape, ir.DataType.INT8, lambda: values_of(qweight).swapaxes(-1, -2))
