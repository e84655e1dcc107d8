"""Rewrite quantized experts to QuantizedMatMul: every expert computes every token."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export import canonical
from edgekiln.export.passes.common.expert_blocks import ExpertBlock, chosen_experts, expert_blocks
from edgekiln.export.passes.common.quantized_ops import QuantizedExpertOp
from edgekiln.export.passes.common.tensors import (
    Array,
    constant,
    dtype_of,
    input_of,
    make,
    move_uses,
    new_initializer,
    replace_node,
    shape_of,
    size_of,
    sizes_of,
    values_of,
)


class MakeExpertsDense(InPlacePass):
    """Replace the experts of a layer by two or three QuantizedMatMul, whose weights keep their codes.

    Experts are placed side by side: the first products have E · N outputs, and the last one, which sums over its
    E · I inputs, sums over the experts as well. Inputs of experts that a token did not choose are multiplied by 0.

    Experts whose last product is not in groups are left alone, as a channel then has a scale of each expert.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for block in expert_blocks(model):
            if block.down.group_size and block.down.activation == "none":
                multiply_tokens(model.graph, block)
                _sum_outputs(model.graph, block)
                modified = True
        return PassResult(model, modified)


def multiply_tokens(graph: ir.Graph, block: ExpertBlock) -> None:
    """Let the first products and the nodes after them compute all experts: [T, E, N] in place of [T, k, N]."""
    tokens, experts = sizes_of(block.index)[0], block.experts
    for op in block.first:
        _first_product(graph, op, experts)
    for node in block.first_bias:
        # [E, N], which is the same for all tokens.
        move_uses(graph, node.outputs, [input_of(node, 0)])
        graph.remove(node, safe=True)
    for node in block.inner:
        for value in node.outputs:
            value.shape = ir.Shape([tokens, experts, sizes_of(value)[-1]])


def gates_of_all(graph: ir.Graph, block: ExpertBlock) -> list[ir.Node]:
    """Nodes of which the last one's output is the gates of all experts, 0 for those not chosen, [T, E]."""
    name = block.down.name
    last = constant(graph, "last_axis", np.array([-1], dtype=np.int64))
    over_chosen = constant(graph, "ints.1", np.array([1], dtype=np.int64))
    chosen = chosen_experts(graph, block.index, block.experts, name)
    column = make("Unsqueeze", [block.gates, last], f"{name}.gates")
    placed = make("Mul", [chosen[-1].outputs[0], column.outputs[0]], f"{name}.placed_gates")
    return [*chosen, column, placed, make("ReduceSum", [placed.outputs[0], over_chosen], f"{name}.of_all", keepdims=0)]


def add_bias(block: ExpertBlock, new: list[ir.Node], gates: ir.Value) -> None:
    """Add nodes that add the weighted sum of the last products' biases to what `new` computes."""
    if block.down_bias is not None:
        name, total = block.down.name, new[-1].outputs[0]
        bias = make("MatMul", [gates, block.down_bias], f"{name}.bias")
        new += [bias, make("Add", [total, bias.outputs[0]], f"{name}.biased")]


def _first_product(graph: ir.Graph, op: QuantizedExpertOp, experts: int) -> None:
    """x [T, 1, K] times the weights of all experts, [T, E, N]."""
    tokens, _, k = sizes_of(op.x)
    n = size_of(op.qweight, 1)
    matrix = _reshape(graph, op.x, [-1, k], f"{op.name}.tokens", [tokens, k])

    def rows(value: ir.Value | None) -> ir.Value | None:
        if value is None:
            return None
        _, _, *rest = shape_of(value)
        shape = (experts * n, *rest)
        name = f"{value.name}.rows"
        return new_initializer(graph, name, shape, dtype_of(value), lambda: values_of(value).reshape(shape))

    product = _matmul(op, matrix.outputs[0], [rows(value) for value in _weight(op)], [tokens, experts * n])
    outputs = _reshape(graph, product.outputs[0], [-1, experts, n], f"{op.name}.of_all", [tokens, experts, n])
    replace_node(op.node, [matrix, product, outputs], outputs.outputs)


def _sum_outputs(graph: ir.Graph, block: ExpertBlock) -> None:
    """The weighted sum of the last products of all experts."""
    op, experts = block.down, block.experts
    tokens, k, n = sizes_of(op.x)[0], size_of(op.x, 2), size_of(op.qweight, 1)
    last = constant(graph, "last_axis", np.array([-1], dtype=np.int64))
    new = gates_of_all(graph, block)
    gates = new[-1].outputs[0]
    factors = make("Unsqueeze", [gates, last], f"{op.name}.factors")
    weighted = make("Mul", [op.x, factors.outputs[0]], f"{op.name}.weighted")
    matrix = _reshape(graph, weighted.outputs[0], [-1, experts * k], f"{op.name}.side_by_side", [tokens, experts * k])

    def columns(value: ir.Value | None) -> ir.Value | None:
        if value is None:
            return None
        _, _, width = shape_of(value)

        def values() -> Array:
            return values_of(value).swapaxes(0, 1).reshape(n, -1)

        return new_initializer(graph, f"{value.name}.columns", (n, experts * width), dtype_of(value), values)

    product = _matmul(op, matrix.outputs[0], [columns(value) for value in _weight(op)], [tokens, n])
    new += [factors, weighted, matrix, product]
    add_bias(block, new, gates)
    block.replace(new)


def _weight(op: QuantizedExpertOp) -> list[ir.Value | None]:
    return [op.qweight, op.scales, op.zero_points, op.group_bias]


def _matmul(op: QuantizedExpertOp, x: ir.Value, weight: list[ir.Value | None], sizes: list[object]) -> ir.Node:
    node = make(
        "QuantizedMatMul",
        canonical.without_trailing_none(x, *weight),
        f"{op.name}.dense",
        domain=canonical.DOMAIN,
        bits=op.bits,
        group_size=op.group_size,
        activation=op.activation,
        codebook=op.codebook,
    )
    _describe(node, sizes)
    return node


def _reshape(graph: ir.Graph, x: ir.Value, shape: list[object], name: str, sizes: list[object]) -> ir.Node:
    target = constant(graph, "ints." + ".".join(map(str, shape)), np.array(shape, dtype=np.int64))
    node = make("Reshape", [x, target], name)
    _describe(node, sizes)
    return node


def _describe(node: ir.Node, sizes: list[object]) -> None:
    node.outputs[0].shape = ir.Shape(sizes)  # type: ignore[arg-type]
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
