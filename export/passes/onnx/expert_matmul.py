"""Lower ExpertMatMul and QuantizedExpertMatMul to standard ops: every expert computes every token."""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export import canonical
from edgekiln.export.op_reference import dequantize
from edgekiln.export.passes.common.expert_blocks import chosen_experts
from edgekiln.export.passes.common.quantized_ops import QuantizedExpertOp, quantized_expert_matmuls
from edgekiln.export.passes.common.tensors import (
    Array,
    inputs_of,
    make,
    name_of,
    new_initializer,
    replace_node,
    shape_of,
    sizes_of,
    values_of,
)


class LowerExpertMatMulToDense(InPlacePass):
    """Replace products with chosen experts by MatMul over all experts, for runtimes without data-dependent sizes.

    Cases:
        1. all experts of a token read the same: they compute all tokens, and the chosen results are taken;
        2. else: inputs are first moved to the place of their expert among zeros.

    Moving and taking are MatMuls with ones where an expert is chosen. Quantized weights are dequantized when they are
    written.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for op in quantized_expert_matmuls(model):
            _lower(model.graph, op.node, op.x, op.index, _float_weight(model.graph, op))
            modified = True
        for node in list(model.graph):
            if (node.domain, node.op_type) == (canonical.DOMAIN, "ExpertMatMul"):
                _lower(model.graph, node, *inputs_of(node, 3))
                modified = True
        return PassResult(model, modified)


def _lower(graph: ir.Graph, node: ir.Node, x: ir.Value, index: ir.Value, weight: ir.Value) -> None:
    name = name_of(node)
    experts = sizes_of(weight)[0]
    assert isinstance(experts, int)
    new = chosen_experts(graph, index, experts, name)

    def add(op: str, inputs: list[ir.Value], suffix: str, **attributes: Any) -> ir.Value:
        new.append(make(op, inputs, f"{name}.{suffix}", **attributes))
        return new[-1].outputs[0]

    chosen = new[-1].outputs[0]  # [T, k, E]
    if sizes_of(x)[1] == 1:
        inputs = add("Transpose", [x], "inputs", perm=[1, 0, 2])  # [1, T, K]
    else:
        placed = add("MatMul", [add("Transpose", [chosen], "places", perm=[0, 2, 1]), x], "placed")
        inputs = add("Transpose", [placed], "inputs", perm=[1, 0, 2])  # [E, T, K]
    products = add("MatMul", [inputs, add("Transpose", [weight], "weight", perm=[0, 2, 1])], "of_all")
    products = add("Transpose", [products], "by_token", perm=[1, 0, 2])  # [T, E, N]
    replace_node(node, new, [add("MatMul", [chosen, products], "products")])


def _float_weight(graph: ir.Graph, op: QuantizedExpertOp) -> ir.Value:
    """The float weight [E, N, K]."""
    if op.group_size:
        experts, n, groups = shape_of(op.scales)
        k = groups * op.group_size
    else:
        experts, n, k = shape_of(op.qweight)

    def dequantized() -> Array:
        parts = [_flat(op.qweight)(), _flat(op.scales)()]
        optional = [None if value is None else _flat(value)() for value in (op.zero_points, op.group_bias)]
        weight = dequantize(*parts, *optional, bits=op.bits, group_size=op.group_size, codebook=op.codebook)
        return weight.reshape(experts, n, k)

    return new_initializer(graph, f"{op.qweight.name}.float", (experts, n, k), ir.DataType.FLOAT, dequantized)


def _flat(value: ir.Value) -> Callable[[], Array]:
    """The values of all experts, one after another."""
    return lambda: values_of(value).reshape(-1, *values_of(value).shape[2:])
