"""Lower QuantizedMatMul with 4-bit weights in groups to DequantizeLinear + MatMul."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.quantized_ops import QuantizedOp, quantized_matmuls
from edgekiln.export.passes.common.tensors import (
    Array,
    constant,
    make,
    new_initializer,
    replace_node,
    shape_of,
    sizes_of,
    values_of,
)

# The zero point of symmetric 4-bit codes.
_ZERO_POINT = 8


class LowerInt4ToDequantizeLinear(InPlacePass):
    """Replace QuantizedMatMul of 4 bits in groups, without a codebook, by MatMul of a dequantized INT4 weight.

    Cases:
        1. symmetric: DequantizeLinear in blocks along K, without zero points, and MatMul;
        2. zero points or a group bias, which TensorRT's DequantizeLinear does not take: a second, small MatMul adds
           scale · (8 - zero point) + bias of each group times the sum of x over the group.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        group_sums: dict[tuple[ir.Value, int], ir.Value] = {}
        modified = False
        for op in quantized_matmuls(model):
            if op.group_size and op.bits == 4 and not op.codebook:
                _lower(model.graph, op, group_sums)
                modified = True
        return PassResult(model, modified)


def _lower(graph: ir.Graph, op: QuantizedOp, group_sums: dict[tuple[ir.Value, int], ir.Value]) -> None:
    n, groups = shape_of(op.scales)

    def codes() -> Array:
        packed = values_of(op.qweight).view(np.uint8)
        unsigned = np.stack([packed & 15, packed >> 4], axis=-1).reshape(n, -1)
        return (unsigned.T.astype(np.int8) - _ZERO_POINT).astype(ir.DataType.INT4.numpy())

    def transposed_scales() -> Array:
        return values_of(op.scales).T

    k = groups * op.group_size
    weight = new_initializer(graph, f"{op.qweight.name}.int4", (k, n), ir.DataType.INT4, codes)
    scale_name = f"{op.scales.name}.transposed"
    scale = new_initializer(graph, scale_name, (groups, n), ir.DataType.FLOAT, transposed_scales)
    dequantized = make("DequantizeLinear", [weight, scale], f"{op.name}.weight", axis=0, block_size=op.group_size)
    matmul = make("MatMul", [op.x, dequantized.outputs[0]], f"{op.name}.int4")
    if op.zero_points is None and op.group_bias is None:
        replace_node(op.node, [dequantized, matmul], [matmul.outputs[0]])
        return
    new: list[ir.Node] = []
    if (op.x, op.group_size) not in group_sums:
        new += _group_sums(graph, op)
        group_sums[op.x, op.group_size] = new[-1].outputs[0]
    bias = make("MatMul", [group_sums[op.x, op.group_size], _total_bias(graph, op)], f"{op.name}.bias_product")
    total = make("Add", [matmul.outputs[0], bias.outputs[0]], f"{op.name}.biased")
    replace_node(op.node, [*new, dequantized, matmul, bias, total], [total.outputs[0]])


def _total_bias(graph: ir.Graph, op: QuantizedOp) -> ir.Value:
    """The float bias of each group that zero points and group bias amount to, [groups, N]."""
    n, groups = shape_of(op.scales)
    zero_points, group_bias = op.zero_points, op.group_bias

    def bias() -> Array:
        zero = float(_ZERO_POINT) if zero_points is None else values_of(zero_points).astype(np.float32)
        added = 0.0 if group_bias is None else values_of(group_bias).astype(np.float32)
        total: npt.NDArray[Any] = values_of(op.scales).astype(np.float32) * (float(_ZERO_POINT) - zero) + added
        return total.T

    return new_initializer(graph, f"{op.qweight.name}.total_bias", (groups, n), ir.DataType.FLOAT, bias)


def _group_sums(graph: ir.Graph, op: QuantizedOp) -> list[ir.Node]:
    """Nodes of which the last one's output is the sum of x over each group, [..., groups]."""
    name, split = op.x.name, [*[0] * (len(sizes_of(op.x)) - 1), -1, op.group_size]
    shape = constant(graph, f"groups.{'.'.join(map(str, split))}", np.array(split, dtype=np.int64))
    last = constant(graph, "last_axis", np.array([-1], dtype=np.int64))
    groups = make("Reshape", [op.x, shape], f"{name}.groups.{op.group_size}")
    return [groups, make("ReduceSum", [groups.outputs[0], last], f"{name}.sums.{op.group_size}", keepdims=0)]
